"""Studies to be disturbed: each with a store of its own, in which everything is prepared, and what an undisturbed run of them gives.

One run on this machine makes the tokenizer, the sources and the results that all others are held against. Its prepared tasks are copied
into the store of every trial, so that trials never share a record and a pod is at work seconds after the study was applied.
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
from orchestrator.store.checkpoints import kept
from orchestrator.store.leases import LeaseBody, history
from orchestrator.store.records import find_record
from orchestrator.study.opening import open_study
from tests.e2e.installation import ROOT, STORE_SECRET, TRAINER_IMAGE
from tests.e2e.kubectl import Failed, Kubectl, eventually

# Long enough to be disturbed in its middle on two busy cores, and short enough to be done again
LONG: Final = "512K"
SHORT: Final = "32K"
# Seconds; a trial takes half a minute where nobody else works, and ten times that where ten others do
LONGEST: Final = 600

# Others see here why something is away for a moment
BUSY: Final = Path("/tmp/cluster-busy")
CLUSTER: Final = Path(os.environ.get("E2E_CLUSTER", ROOT.parent / "shared/cluster/cluster"))
"""The program that starts the cluster: what it does to machines, no API does."""

MIXTURE: Final[Document] = {"codePercent": "grid", "text": {"english": 100}, "code": {"python": 100}}
COSINE: Final[Document] = {"shape": "cosine", "warmup": "4K"}
WSD: Final[Document] = {"shape": "wsd", "decay": "20%", "warmup": "2K"}


def recipe(name: str, *stages: Document, **more: Any) -> Document:
    return {"name": name, "stages": list(stages), **more}


def stage(tokens: str, schedule: Document, name: str = "pretrain") -> Document:
    return {"name": name, "tokens": tokens, "mixture": MIXTURE, "schedule": schedule}


# One task, long enough to be disturbed
ONE: Final = recipe("one", stage(LONG, COSINE))
# A trunk and a cooldown from it, one of two
BRANCHED: Final = recipe("branched", stage("96K", WSD), {"name": "cooldown", "tokens": "32K", "mixture": MIXTURE})
OTHERWISE: Final = recipe("otherwise", stage("96K", WSD), {"name": "cooldown", "tokens": "48K", "mixture": MIXTURE})
TINY: Final = recipe("tiny", stage(SHORT, COSINE))
SEEDS: Final = (1, 2)


def document(name: str, store: str, corpus: str, recipes: Iterable[Document], *, seeds: Iterable[int] = (1,), **more: Any) -> Document:
    """A study as kubectl applies it. `more`: of its spec; `execution` is merged."""
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
    """What an undisturbed run on this machine left: `results` by digest, `prepared` objects by key, `fingerprints` by source."""

    results: dict[str, Document]
    prepared: dict[str, bytes]
    fingerprints: dict[str, str]


def run_reference(folder: Path, corpus: str) -> Reference:
    """Train everything that any trial trains, once, here."""
    file, url = folder / "reference.yaml", str(folder / "store")
    recipes = [ONE, *({**other, "seeds": [1]} for other in (BRANCHED, OTHERWISE, TINY))]
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
    from orchestrator.study.fingerprints import look_at, wanted

    return dict(look_at(wanted(read_study(file)), file.parent).fingerprints)


def results(store: Store, plan: Plan) -> dict[str, Document]:
    """Results of every task by digest, of those that are recorded."""
    found = {digest: find_record(store, digest) for digest in plan.tasks}
    return {digest: dict(record.results) for digest, record in found.items() if record is not None}


@dataclass
class Trial:
    """A study that was applied, as the cluster and its store show it."""

    name: str
    body: Document
    kubectl: Kubectl
    store: Store
    plan: Plan
    reference: Reference

    # What people do

    def apply(self) -> None:
        self.kubectl.apply(self.body)

    def edit(self, **spec: Any) -> None:
        self.kubectl.run("patch", "sstudy", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    # What is seen

    def status(self) -> Document:
        found: Document = self.kubectl.json("get", "sstudy", self.name).get("status") or {}
        return found

    def phase(self) -> str:
        return str(self.status().get("phase", ""))

    def condition(self, kind: str) -> Document:
        return next((entry for entry in self.status().get("conditions") or () if entry["type"] == kind), {})

    def reaches(self, *phases: str, seconds: float = LONGEST) -> None:
        eventually(lambda: self.phase() in phases, f"{self.name} is {' or '.join(phases)}, not {self.phase()}", seconds)

    def events(self) -> dict[str, str]:
        """Reason -> the last message."""
        found = self.kubectl.json("get", "events", "--field-selector", f"involvedObject.name={self.name}")["items"]
        return {event["reason"]: event["message"] for event in found}

    def workflows(self) -> list[Document]:
        found: list[Document] = self.kubectl.json("get", "workflows", "-l", f"{LABEL_STUDY}={self.name}")["items"]
        return found

    def pods(self) -> list[Document]:
        found: list[Document] = self.kubectl.json("get", "pods", "-l", f"{LABEL_STUDY}={self.name}")["items"]
        return [pod for pod in found if LABEL_DIGEST in pod["metadata"]["labels"]]

    # What the store says

    @property
    def trains(self) -> list[str]:
        return [digest for digest, task in self.plan.tasks.items() if task.kind == TaskKind.TRAIN]

    def root(self, digest: str) -> str:
        task = self.plan.tasks[digest]
        return work_root(task.kind, task.work)

    def leases(self, digest: str = "") -> list[LeaseBody]:
        """Every lease that was taken for a task, by default the first that trains."""
        digest = digest or self.trains[0]
        return [body for body in history(self.store, self.root(digest)) if body.digest == digest]

    def has_checkpoint(self, digest: str = "") -> bool:
        return bool(kept(self.store, self.root(digest or self.trains[0])))

    def is_under_way(self, digest: str = "", seconds: float = LONGEST) -> None:
        """A task has written a checkpoint and is not done: its middle."""
        eventually(lambda: self.has_checkpoint(digest), f"{self.name} has a checkpoint", seconds)
        assert find_record(self.store, digest or self.trains[0]) is None, f"{self.name} was done before it could be disturbed"

    def is_exact(self) -> None:
        """Every cell is there, every record holds what an undisturbed run gives, and no lease is left to a task that is done."""
        assert self.status()["counts"]["cellsDone"] == len(self.plan.cells)
        assert results(self.store, self.plan) == {digest: self.reference.results[digest] for digest in self.plan.tasks}
        for digest in self.trains:
            ends = [body.ended.code if body.ended else None for body in self.leases(digest)]
            assert ends.count(0) == 1, f"{self.plan.tasks[digest].label}: attempts ended with {ends}, and one result counts"

    def succeeds(self, seconds: float = LONGEST) -> None:
        self.reaches("Succeeded", "Failed", "Refused", seconds=seconds)
        assert self.phase() == "Succeeded", self.status()["conditions"]
        self.is_exact()


@dataclass
class Ground:
    """Where trials take place. `here`: name of the node that is never switched off."""

    kubectl: Kubectl
    root: str
    folder: Path
    reference: Reference
    here: str
    controllers: list["Controller"] = field(default_factory=list)

    def trial(self, name: str, *recipes: Document, store: str = "", node: str = "", **spec: Any) -> Trial:
        """A study in the store `store`, by default its own, whose prepared tasks are there. Not applied yet."""
        url = f"{self.root}/{store or name}"
        execution = {"nodeSelector": {"kubernetes.io/hostname": node or self.here}, **spec.pop("execution", {})}
        body = document(name, url, f"{self.root}/corpus", recipes or (ONE,), execution=execution, **spec)
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
    """The controller as a process of this machine, which can be killed."""

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
        """As a node that loses its power kills it."""
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
    """Tells everybody else who uses this cluster."""
    BUSY.write_text(f"{what}: a test of what the product survives, over in a minute or three\n")
    try:
        yield
    finally:
        BUSY.unlink(missing_ok=True)


def cluster(*words: str) -> str:
    """Ask the program that starts the cluster."""
    if not CLUSTER.exists():
        pytest.skip("no program that can switch machines of this cluster off: E2E_CLUSTER names one")
    done = subprocess.run([str(CLUSTER), *words], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def process_of(name: str) -> int:
    """A process of the cluster's own machinery, by the file that its program keeps beside the kubeconfig."""
    file = Path(os.environ["KUBECONFIG"]).parent / "pids" / name
    if not file.exists():
        pytest.skip(f"{name} is no process of this machine")
    return int(file.read_text())


@contextmanager
def frozen(process: int, seconds: float) -> Iterator[None]:
    """The process does nothing for so long; what was asked of it hangs."""
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
    """Seconds until `look` says yes; fails when that takes longer."""
    began = time.monotonic()
    eventually(lambda: bool(look()), what, seconds)
    return time.monotonic() - began
