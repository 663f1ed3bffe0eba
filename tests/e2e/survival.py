"""Trials: studies that are disturbed while they run, and the results of an undisturbed run to compare with.

One local run produces the tokenizer, the sources and the reference results. Its prepare tasks are copied to the store of every trial, so
that trials share no records and training begins seconds after a study is applied.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from orchestrator.cluster.port import Document
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_STUDY, TaskKind
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.checkpoints import list_checkpoints
from orchestrator.store.leases import LeaseBody, history
from orchestrator.store.records import find_record
from orchestrator.study.opening import open_study
from tests.e2e.installation import ROOT, STORE_SECRET, TRAINER_IMAGE
from tests.e2e.kubectl import Failed, Kubectl, eventually

# Tokens; long enough to be disturbed while training on two busy cores, and short enough to repeat
LONG: Final = "512K"
SHORT: Final = "32K"
# Timeout in seconds; a trial takes half a minute on an idle machine, and ten times as long beside ten others
TIMEOUT: Final = 600

# Explains a temporary outage to other users of the cluster
NOTICE_FILE: Final = Path("/tmp/cluster-busy")
CLUSTER: Final = Path(os.environ.get("E2E_CLUSTER", ROOT.parent / "shared/cluster/cluster"))
"""The program that starts the cluster and can power its machines off, for which there is no API."""

MIXTURE: Final[Document] = {"codePercent": "grid", "text": {"english": 100}, "code": {"python": 100}}
COSINE: Final[Document] = {"shape": "cosine", "warmup": "4K"}
WSD: Final[Document] = {"shape": "wsd", "decay": "20%", "warmup": "2K"}


def recipe(name: str, *stages: Document, **more: Any) -> Document:
    return {"name": name, "stages": list(stages), **more}


def stage(tokens: str, schedule: Document, name: str = "pretrain") -> Document:
    return {"name": name, "tokens": tokens, "mixture": MIXTURE, "schedule": schedule}


# One task, long enough to be disturbed while it runs
SINGLE: Final = recipe("one", stage(LONG, COSINE))
# A trunk and one of two cooldowns from it
BRANCHED: Final = recipe("branched", stage("96K", WSD), {"name": "cooldown", "tokens": "32K", "mixture": MIXTURE})
OTHER_COOLDOWN: Final = recipe("otherwise", stage("96K", WSD), {"name": "cooldown", "tokens": "48K", "mixture": MIXTURE})
TINY: Final = recipe("tiny", stage(SHORT, COSINE))
SEEDS: Final = (1, 2)


def document(name: str, store: str, corpus: str, recipes: Iterable[Document], *, seeds: Iterable[int] = (1,), **more: Any) -> Document:
    """Return a study object. `more`: further fields of its spec; `execution` is merged."""
    execution = {
        "image": TRAINER_IMAGE,
        "storeSecret": STORE_SECRET,
        "gpusPerPod": {"0.01M": 0},
        "graceSeconds": 20,
        **more.pop("execution", {}),
    }
    sources = [
        {"name": "english", "group": "text", "path": f"{corpus}/text/*.txt"},
        {"name": "python", "group": "code", "path": f"{corpus}/code/*.py"},
    ]
    spec = {
        "store": store,
        "grid": {"sizes": ["0.01M"], "codePercent": [25], "seeds": list(seeds)},
        "data": {
            "tokenizer": {"train": {"vocabulary": 512, "bytes": "100k", "weights": {"english": 50, "python": 50}}},
            "sources": sources,
            "heldOut": {"oneIn": 20, "documents": 4},
        },
        "training": {"sequenceLength": 64, "precision": "fp32"},
        "recipes": list(recipes),
        "execution": execution,
        **more,
    }
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True)
class Reference:
    """Output of an undisturbed local run: `results` by digest, `prepared` objects by key, `fingerprints` by source."""

    results: dict[str, Document]
    prepared: dict[str, bytes]
    fingerprints: dict[str, str]


def run_reference(folder: Path, corpus: str) -> Reference:
    """Run the tasks of all trials once, locally."""
    file, url = folder / "reference.yaml", str(folder / "store")
    recipes = [SINGLE, *({**other, "seeds": [1]} for other in (BRANCHED, OTHER_COOLDOWN, TINY))]
    file.write_text(yaml.safe_dump(document("reference", url, corpus, recipes, seeds=SEEDS)))
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "run", str(file), "--workers", "2"]
    quiet = ["--no-tracking", "--plain", "--out", str(folder / "report")]
    done = subprocess.run([*command, *quiet], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    opened = open_study(file)
    prepares = [digest for digest, task in opened.plan.tasks.items() if task.kind == TaskKind.PREPARE]
    objects = opened.store.objects
    keys = [stat.key for digest in prepares for stat in objects.list(f"tasks/{digest}")] + [f"done/{digest}" for digest in prepares]
    return Reference(
        results=results(opened.store, opened.plan),
        prepared={key: objects.get(key) for key in keys},
        fingerprints=_fingerprints(file),
    )


def _fingerprints(file: Path) -> dict[str, str]:
    from orchestrator.spec import read_study
    from orchestrator.study.fingerprints import fingerprint_paths, fingerprint_request

    return dict(fingerprint_paths(fingerprint_request(read_study(file)), file.parent).fingerprints)


def results(store: Store, plan: Plan) -> dict[str, Document]:
    """Return the results of all recorded tasks by digest."""
    found = {digest: find_record(store, digest) for digest in plan.tasks}
    return {digest: dict(record.results) for digest, record in found.items() if record is not None}


@dataclass
class Trial:
    """A study under test, with access to its object and its store."""

    name: str
    body: Document
    kubectl: Kubectl
    store: Store
    plan: Plan
    reference: Reference

    # Actions of a user

    def apply(self) -> None:
        self.kubectl.apply(self.body)

    def edit(self, **spec: Any) -> None:
        self.kubectl.run("patch", "sstudy", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    # State in the cluster

    def status(self) -> Document:
        found: Document = self.kubectl.json("get", "sstudy", self.name).get("status") or {}
        return found

    def phase(self) -> str:
        return str(self.status().get("phase", ""))

    def condition(self, kind: str) -> Document:
        return next((entry for entry in self.status().get("conditions") or () if entry["type"] == kind), {})

    def wait_for_phase(self, *phases: str, seconds: float = TIMEOUT) -> None:
        eventually(lambda: self.phase() in phases, f"{self.name} is {' or '.join(phases)}, not {self.phase()}", seconds)

    def events(self) -> dict[str, str]:
        """Return the last message of each event reason."""
        found = self.kubectl.json("get", "events", "--field-selector", f"involvedObject.name={self.name}")["items"]
        return {event["reason"]: event["message"] for event in found}

    def workflows(self) -> list[Document]:
        found: list[Document] = self.kubectl.json("get", "workflows", "-l", f"{LABEL_STUDY}={self.name}")["items"]
        return found

    def pods(self) -> list[Document]:
        found: list[Document] = self.kubectl.json("get", "pods", "-l", f"{LABEL_STUDY}={self.name}")["items"]
        return [pod for pod in found if LABEL_DIGEST in pod["metadata"]["labels"]]

    # State in the store

    @property
    def trains(self) -> list[str]:
        return [digest for digest, task in self.plan.tasks.items() if task.kind == TaskKind.TRAIN]

    def root(self, digest: str) -> str:
        task = self.plan.tasks[digest]
        return work_root(task.kind, task.work)

    def leases(self, digest: str = "") -> list[LeaseBody]:
        """Return all leases of a task, by default of the first train task."""
        digest = digest or self.trains[0]
        return [body for body in history(self.store, self.root(digest)) if body.digest == digest]

    def has_checkpoint(self, digest: str = "") -> bool:
        return bool(list_checkpoints(self.store, self.root(digest or self.trains[0])))

    def wait_for_checkpoint(self, digest: str = "", seconds: float = TIMEOUT) -> None:
        """Wait until a task has a checkpoint, and assert that it is not done."""
        eventually(lambda: self.has_checkpoint(digest), f"{self.name} has a checkpoint", seconds)
        assert find_record(self.store, digest or self.trains[0]) is None, f"{self.name} was done before it could be disturbed"

    def assert_exact(self) -> None:
        """Assert that every cell is done with the results of the undisturbed run, and that one attempt per train task succeeded."""
        assert self.status()["counts"]["cellsDone"] == len(self.plan.cells)
        assert results(self.store, self.plan) == {digest: self.reference.results[digest] for digest in self.plan.tasks}
        for digest in self.trains:
            ends = [body.ended.code if body.ended else None for body in self.leases(digest)]
            assert ends.count(0) == 1, f"{self.plan.tasks[digest].label}: attempts ended with {ends} instead of one success"

    def wait_for_success(self, seconds: float = TIMEOUT) -> None:
        self.wait_for_phase("Succeeded", "Failed", "Refused", seconds=seconds)
        assert self.phase() == "Succeeded", self.status()["conditions"]
        self.assert_exact()


@dataclass
class Sandbox:
    """The installation in which trials run. `main_node`: name of the node that is never powered off."""

    kubectl: Kubectl
    root: str
    folder: Path
    reference: Reference
    main_node: str
    controllers: list["Controller"] = field(default_factory=list)

    def trial(self, name: str, *recipes: Document, store: str = "", node: str = "", **spec: Any) -> Trial:
        """Create a study that is not yet applied, with its prepare tasks in its store (by default one of its own)."""
        url = f"{self.root}/{store or name}"
        execution = {"nodeSelector": {"kubernetes.io/hostname": node or self.main_node}, **spec.pop("execution", {})}
        body = document(name, url, f"{self.root}/corpus", recipes or (SINGLE,), execution=execution, **spec)
        for source in body["spec"]["data"]["sources"]:
            source["fingerprint"] = self.reference.fingerprints[source["name"]]
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(body))
        opened = open_study(file)
        for key, content in self.reference.prepared.items():
            opened.store.objects.put(key, content)
        return Trial(name, body, self.kubectl, opened.store, opened.plan, self.reference)

    def applied(self, name: str, *recipes: Document, **spec: Any) -> Trial:
        trial = self.trial(name, *recipes, **spec)
        trial.apply()
        return trial


class Controller:
    """The controller as a local process that can be killed."""

    def __init__(self, namespace: str, log: Path, *flags: str) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("", 0))
            self.port = free.getsockname()[1]
        self._command = [
            sys.executable, "-m", "orchestrator.controller", "--namespace", namespace, "--relist-seconds", "20",
            "--port", str(self.port), *flags,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Controller":
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def kill(self) -> None:
        """Kill the process, as a power failure of its node does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def leads(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return b"scaling_study_leads 1.0" in answer.read()
        return False


@contextmanager
def disturbing(what: str) -> Iterator[None]:
    """Announce an outage to other users of the cluster."""
    NOTICE_FILE.write_text(f"{what}: a resilience test, over in one to three minutes\n")
    try:
        yield
    finally:
        NOTICE_FILE.unlink(missing_ok=True)


def cluster(*arguments: str) -> str:
    """Run the program that starts the cluster."""
    if not CLUSTER.exists():
        pytest.skip("no program to power off machines of the cluster; set E2E_CLUSTER to its path")
    done = subprocess.run([str(CLUSTER), *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def process_of(name: str) -> int:
    """Return the id of a cluster process, from its pid file beside the kubeconfig."""
    file = Path(os.environ["KUBECONFIG"]).parent / "pids" / name
    if not file.exists():
        pytest.skip(f"{name} is not a process of this machine")
    return int(file.read_text())


@contextmanager
def frozen(process: int, seconds: float) -> Iterator[None]:
    """Suspend a process for `seconds`, so that requests to it hang."""
    os.kill(process, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(process, signal.SIGCONT)
    yield


def ready(node: str) -> bool:
    with suppress(Failed):
        found = Kubectl("default").json("get", "node", node)
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in found["status"]["conditions"])
    return False


def within(seconds: float, look: Callable[[], object], what: str) -> float:
    """Wait for `look` to be true and return the seconds it took. Fails after `seconds`."""
    began = time.monotonic()
    eventually(lambda: bool(look()), what, seconds)
    return time.monotonic() - began
