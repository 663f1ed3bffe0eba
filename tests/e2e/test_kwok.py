"""A study of hundreds of GPU tasks on nodes simulated by kwok, with the real API server, scheduler, Argo and controller.

A simulated pod runs for five seconds without a process, so the test writes the lease and the record in place of the trainer. KWOK_TASKS is
the minimum number of GPU tasks, 200 by default; the full test with `KWOK_TASKS=1000` needs an otherwise idle machine. The test prints tasks
per minute and the CPU time of each component.
"""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from orchestrator.cluster.kubernetes_api import connect
from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_STUDY, TaskKind
from orchestrator.errors import ClusterError
from orchestrator.planning import plan_study
from orchestrator.spec import read_object
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import Holder, acquire, history
from orchestrator.store.records import done, publish_record
from orchestrator.workflow import short
from tests.e2e.installation import ROOT, STORE_SECRET, install, uninstall
from tests.e2e.kubectl import Document, Failed, Kubectl, eventually
from tests.e2e.small_study import open_root

pytestmark = pytest.mark.cluster

TASKS: Final = int(os.environ.get("KWOK_TASKS", "200"))
NODES: Final = 16
GPUS_PER_NODE: Final = 8
# A cell has a trunk, a leaf, and four evaluations: two suites on two sources each
TASKS_PER_CELL: Final = 6
STUDY: Final = "simulated"
TIMEOUT: Final = 120 + 2 * TASKS  # seconds; half a task per second is slow
# Processes whose CPU time shows the bottleneck; names as in /proc, truncated to 15 characters
PROCESSES: Final = ("kube-apiserver", "etcd", "kube-scheduler", "kube-controller", "workflow-contro", "kwok")


def node(name: str, pool: str) -> Document:
    """Return a simulated node, tainted so that no real pod is scheduled on it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"type": "kwok", "pool": pool}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
    }


def study_object(store: str, pool: str) -> Document:
    mixture = {"codePercent": "grid", "code": {"stack": 100}, "text": {"web": 100}}
    cells = -(-TASKS // TASKS_PER_CELL)
    spec = {
        "store": store,
        "grid": {"sizes": ["0.03M"], "codePercent": list(range(10, 100, 10)), "seeds": list(range(1, -(-cells // 9) + 1))},
        "data": {
            "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
            "sources": [
                {"name": "web", "group": "text", "path": "s3://corpora/web", "fingerprint": "a" * 64},
                {"name": "stack", "group": "code", "path": "s3://corpora/stack", "fingerprint": "b" * 64},
            ],
        },
        "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": "8K"}},
        "recipes": [{"name": "scratch", "stages": [{"name": "pretrain", "tokens": "400K", "mixture": mixture}]}],
        "evaluation": {"after": ["pretrain"], "suites": ["bpb", "continuation"]},
        "execution": {
            "image": "trainer:simulated",
            "storeSecret": STORE_SECRET,
            "gpusPerPod": {"0.03M": 1},
            "nodeSelector": {"pool": pool},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        },
    }
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": STUDY}, "spec": spec}


class Trainers:
    """Writes the leases and records of a study's simulated pods, once per pod.

    `after`: delay in seconds after the start of the pod. `ran`: number of runs of each task. `most`: maximum number of running pods.
    """

    def __init__(self, store: Store, plan: Plan, study: str, after: float = 0.0) -> None:
        self.ran: Counter[str] = Counter()
        self.most = 0
        self.study = study
        self._after = after
        self._store = store
        self._tasks = {short(digest): task for digest, task in plan.tasks.items()}
        self._seen: set[str] = set()
        self._running: set[str] = set()
        self._threads = ThreadPoolExecutor(16)
        self._work_done: list[Future[None]] = []

    def observe(self, change: str, pod: Document) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        if phase == "Running" and change != "DELETED":
            self._running.add(name)
            self.most = max(self.most, len(self._running))
            if name not in self._seen:
                self._seen.add(name)
                self._work_done.append(self._threads.submit(self._work, pod["metadata"]["labels"][LABEL_DIGEST]))
        else:
            self._running.discard(name)

    def _work(self, label: str) -> None:
        time.sleep(self._after)
        planned = self._tasks[label]
        self.ran[planned.digest] += 1
        holder = Holder(study=self.study, run_number=1, gpus=0 if planned.kind == TaskKind.PREPARE else 1)
        lease = acquire(self._store, work_root(planned.kind, planned.work), planned.digest, holder)
        identity = planned.task.identity()
        publish_record(
            self._store, Record(digest=planned.digest, identity=identity, results={}, artifacts={}, attempts=[], nonce=planned.digest)
        )
        lease.end("a simulated pod", 0, "")

    def close(self) -> None:
        """Wait for all writes and raise the first error."""
        self._threads.shutdown()
        for work in self._work_done:
            work.result()


@contextmanager
def simulated_trainers(namespace: str, trainers: Trainers) -> Iterator[None]:
    """Write the results of every running pod of the study while the context is active."""
    cluster, stop = connect(namespace), threading.Event()

    def follow() -> None:
        version = cluster.list("pods").resource_version
        while not stop.is_set():
            try:
                for change, pod in cluster.watch("pods", version, {LABEL_STUDY: trainers.study}, timeout_seconds=5):
                    version = pod["metadata"]["resourceVersion"]
                    if change != "BOOKMARK":
                        trainers.observe(change, pod)
            except ClusterError:
                continue

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    trainers.close()


@contextmanager
def controller(namespace: str, log: Path) -> Iterator[int]:
    """Run the real controller as a local process and yield its process id."""
    command = [sys.executable, "-m", "orchestrator.controller", "--namespace", namespace, "--alone", "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stderr=file)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def simulated_nodes(environment: None) -> Iterator[tuple[Kubectl, str]]:  # noqa: ARG001
    """A namespace and the name of its pool of simulated nodes."""
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    nodes = [node(f"{namespace}-{number}", namespace) for number in range(NODES)]
    names = [body["metadata"]["name"] for body in nodes]
    kubectl = Kubectl(namespace)
    kubectl.apply(*nodes)
    try:
        kubectl.run("wait", "--for=condition=Ready", *(f"node/{name}" for name in names), "--timeout=60s")
    except Failed:
        kubectl.run("delete", "node", *names, "--wait=false")
        pytest.skip("kwok is not installed on this cluster")
    install(namespace, controller=False)
    yield kubectl, namespace
    kubectl.run("delete", "sstudy", "--all", "--wait=false")
    uninstall(namespace)
    kubectl.run("delete", "node", *names, "--wait=false")


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """Return CPU seconds by process name, for processes of this machine."""
    tick = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = file.read_text().rpartition(")")
        except OSError:
            continue
        number, name = int(file.parent.name), head.partition("(")[2]
        name = next((given for given, pid in pids.items() if pid == number), name)
        if name in PROCESSES or name in pids:
            words = tail.split()
            found[name] = found.get(name, 0.0) + (int(words[11]) + int(words[12])) / tick
    return found


def test_hundreds_of_gpu_tasks_run_exactly_once(
    simulated_nodes: tuple[Kubectl, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl, pool = simulated_nodes
    url = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/kwok/{pool}"
    body = study_object(url, pool)
    plan, store = plan_of(body), open_root(url)
    gpu_tasks = [digest for digest, task in plan.tasks.items() if task.kind != TaskKind.PREPARE]
    assert len(gpu_tasks) >= TASKS
    trainers = Trainers(store, plan, STUDY)
    with controller(kubectl.namespace, tmp_path / "controller.log") as pid, simulated_trainers(kubectl.namespace, trainers):
        pids = {"controller": pid, "this test": os.getpid()}
        before, start = cpu_seconds(pids), time.monotonic()
        kubectl.apply(body)
        status = eventually(lambda: final_status(kubectl), "the study has ended", TIMEOUT)
        seconds, after = time.monotonic() - start, cpu_seconds(pids)
    assert status["phase"] == "Succeeded", status["conditions"]
    assert status["counts"]["tasksDone"] == len(plan.tasks)
    assert trainers.ran == Counter(dict.fromkeys(plan.tasks, 1)), "every task ran exactly once"
    assert done(store) == plan.tasks.keys()
    assert sum(len(history(store, root)) for root in {work_root(task.kind, task.work) for task in plan.tasks.values()}) == len(plan.tasks)
    with capsys.disabled():
        used = ", ".join(f"{name} {after[name] - before.get(name, 0.0):.0f} s" for name in sorted(after))
        print(
            f"\n{len(plan.tasks)} tasks ({len(gpu_tasks)} on GPUs) in {seconds:.0f} s: {len(plan.tasks) / seconds * 60:.0f} tasks per"
            f" minute, at most {trainers.most} pods on {NODES * GPUS_PER_NODE} GPUs; load {os.getloadavg()[0]:.1f}; CPU time: {used}"
        )


def plan_of(body: dict[str, Any]) -> Plan:
    return plan_study(read_object(body), {})


def final_status(kubectl: Kubectl) -> Document | None:
    status: Document = kubectl.json("get", "sstudy", STUDY).get("status") or {}
    return status if status.get("phase") in ("Succeeded", "Failed", "Refused") else None
