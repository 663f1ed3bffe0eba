"""A namespace in which Argo, the kubelet and the trainers are simulated: Workflows get pods, pods leave records, one step at a time."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.cluster.port import Document
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.vocabulary import ANNOTATION_TASKS, LABEL_DIGEST, LABEL_MANAGED_BY, LABEL_STORE, LABEL_STUDY, MANAGED_BY
from orchestrator.controller.loop import Loop
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.errors import KeyMissing
from orchestrator.reconcile.observed import LABEL_WORKFLOW
from orchestrator.store import Store
from orchestrator.store.addresses import lease_key, work_root
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.memory import InMemoryObjects
from orchestrator.store.records import publish_record, read_task

T0 = datetime(2030, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "store": "memory://simulated",
    "grid": {"sizes": ["0.03M"], "codePercent": [0, 50], "seeds": [1]},
    "data": {
        "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
        "sources": [
            {"name": "web", "group": "text", "path": "s3://corpora/web", "fingerprint": "a" * 64},
            {"name": "stack", "group": "code", "path": "s3://corpora/stack", "fingerprint": "b" * 64},
        ],
    },
    "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": "8K"}},
    "recipes": [
        {
            "name": "scratch",
            "stages": [
                {"name": "pretrain", "tokens": "400K", "mixture": {"codePercent": "grid", "code": {"stack": 100}, "text": {"web": 100}}},
                {"name": "cooldown", "tokens": "100K", "mixture": {"codePercent": 20, "code": {"stack": 100}, "text": {"web": 100}}},
            ],
        }
    ],
    "evaluation": {"after": ["pretrain", "cooldown"], "suites": ["bpb"]},
    "execution": {"image": "trainer:1"},
}


class Clock:
    """Wall clock and monotonic clock that advance only on request."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return (self.now - T0).total_seconds()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class SimulatedCluster:
    """`cluster`, `objects` and `clock` are used by the controller. `ran`: digests in the order of their completion."""

    clock: Clock = field(default_factory=Clock)
    ran: list[str] = field(default_factory=list)
    gpus: int = 1

    def __post_init__(self) -> None:
        self.cluster = InMemoryCluster(clock=self.clock)
        self.objects = InMemoryObjects(clock=self.clock)
        self.store = Store(self.objects, "memory://simulated", self.clock)
        self._stores = {"memory://simulated": self.store}
        self._leases: dict[str, Lease] = {}
        self._digests: dict[str, str] = {}

    # The controller

    def controller(self, may_work: Callable[[], bool] = lambda: True) -> Loop:
        """Return a new controller with empty caches."""
        metrics = Metrics()
        reconciler = StudyReconciler(self.cluster, lambda url: self._stores.get(url, self.store), self.clock, metrics)
        return Loop(self.cluster, reconciler, metrics, self.clock, may_work=may_work, monotonic=self.clock.seconds)

    def open_apart(self, url: str) -> InMemoryObjects:
        """Open another store, in which no task runs, and return its objects."""
        objects = InMemoryObjects(clock=self.clock)
        self._stores[url] = Store(objects, url, self.clock)
        return objects

    def step(self, loop: Loop, steps: int = 1) -> None:
        """Run some steps of the loop; each reconciles all studies."""
        for _ in range(steps):
            self.clock.advance(61)
            loop.relist()
            loop.step()

    # People

    def apply(self, name: str = "mine", **changes: Any) -> None:
        spec = copy.deepcopy(SPEC) | changes
        body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": name}, "spec": spec}
        self.cluster.create("scalingstudies", body)

    def edit(self, name: str = "mine", **changes: Any) -> None:
        self.cluster.patch("scalingstudies", name, {"spec": changes})

    def status(self, name: str = "mine") -> Document:
        body = self.cluster.get("scalingstudies", name)
        assert body is not None
        found: Document = body.get("status") or {}
        return found

    def condition(self, kind: str, name: str = "mine") -> Document:
        found: Document = next(entry for entry in self.status(name)["conditions"] if entry["type"] == kind)
        return found

    def events(self) -> set[str]:
        return {body["reason"] for body in self.cluster.list("events").items}

    # Argo, the kubelet, the trainers

    def workflows(self, *phases: str) -> list[Document]:
        items = self.cluster.list("workflows").items
        return [body for body in items if not phases or (body.get("status") or {}).get("phase", "") in phases]

    def start_pods(self) -> None:
        """Start every Workflow: its first task that is not done gets a pod and a lease."""
        with_pods = {pod["metadata"]["labels"][LABEL_WORKFLOW] for pod in self.cluster.list("pods").items}
        for body in self.workflows("", "Running"):
            name = body["metadata"]["name"]
            if body["spec"].get("shutdown"):
                self.cluster.set_status("workflows", name, {"phase": "Failed", "message": "Stopped with strategy 'Stop'"})
                continue
            self.cluster.set_status("workflows", name, {"phase": "Running"})
            left = [digest for digest in tasks_of(body) if not self.is_done(digest)]
            if left and name not in with_pods:
                self._start(body, left[0])

    def _start(self, workflow: Document, digest: str) -> None:
        name = workflow["metadata"]["name"]
        labels = {
            LABEL_MANAGED_BY: MANAGED_BY, LABEL_WORKFLOW: name, LABEL_DIGEST: digest[:32],
            LABEL_STUDY: workflow["metadata"]["labels"][LABEL_STUDY], LABEL_STORE: workflow["metadata"]["labels"][LABEL_STORE],
        }  # fmt: skip
        owner = {"uid": workflow["metadata"]["uid"], "name": name, "kind": "Workflow", "apiVersion": "argoproj.io/v1alpha1"}
        metadata = {"name": f"{name}-{digest[:8]}", "labels": labels, "ownerReferences": [owner]}
        self.cluster.put("pods", {"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}})
        holder = Holder(study=labels[LABEL_STUDY], run_number=int(workflow["metadata"]["labels"]["scaling-study.dev/run"]), gpus=self.gpus)
        self._digests[digest[:32]] = digest
        self._leases[digest] = acquire(self.store, self._root(digest), digest, holder)

    def _root(self, digest: str) -> str:
        identity = read_task(self.store, digest).identity()
        if identity["kind"] == "train":
            return work_root("train", digest_of(identity["trajectory"]))
        return work_root(identity["kind"], digest)

    def is_done(self, digest: str) -> bool:
        try:
            self.store.objects.stat(f"done/{digest}")
        except KeyMissing:
            return False
        return True

    def end_pods(self, code: int = ExitCode.DONE, message: str = "") -> None:
        """End every pod, with a record or with an exit code in its lease."""
        for pod in self.cluster.list("pods").items:
            name, workflow = pod["metadata"]["name"], pod["metadata"]["labels"][LABEL_WORKFLOW]
            digest = self._digests[pod["metadata"]["labels"][LABEL_DIGEST]]
            if code == ExitCode.DONE:
                self.ran.append(digest)
                publish_record(self.store, self._record(digest))
            self._leases.pop(digest).end("in a test", code, message)
            self.cluster.remove("pods", name)
            self._update_workflow(workflow, failed=code == ExitCode.REFUSED)

    def lose_node(self, pod: str) -> None:
        """Lose the node of a pod permanently: the pod is marked as deleted and never ends."""
        body = self.cluster.get("pods", pod)
        assert body is not None
        self.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
        self.cluster.delete("pods", pod)
        # a later attempt takes over the lease
        self._leases.pop(self._digests[body["metadata"]["labels"][LABEL_DIGEST]]).end("lost in a test", 137)

    def run_out_of_memory(self) -> None:
        """Kill every pod for its memory: its lease has no end, and Argo marks the Workflow as failed."""
        for pod in self.cluster.list("pods").items:
            self._leases.pop(self._digests[pod["metadata"]["labels"][LABEL_DIGEST]])
            self.cluster.remove("pods", pod["metadata"]["name"])
            failed = {"phase": "Failed", "message": "main: OOMKilled (exit code 137)"}
            self.cluster.set_status("workflows", pod["metadata"]["labels"][LABEL_WORKFLOW], failed)

    def never_begin(self) -> None:
        """Fail every Workflow because of a missing image: no lease exists."""
        for pod in self.cluster.list("pods").items:
            digest = self._digests[pod["metadata"]["labels"][LABEL_DIGEST]]
            lease = self._leases.pop(digest)
            self.store.objects.delete(lease_key(lease.work_root, lease.number))
            self.cluster.remove("pods", pod["metadata"]["name"])
            failed = {"phase": "Failed", "message": "ImagePullBackOff"}
            self.cluster.set_status("workflows", pod["metadata"]["labels"][LABEL_WORKFLOW], failed)

    def _record(self, digest: str) -> Record:
        identity = read_task(self.store, digest).identity()
        return Record(digest=digest, identity=identity, results={"tokens": 1}, artifacts={}, attempts=[], nonce=digest)

    def _update_workflow(self, name: str, *, failed: bool) -> None:
        body = self.cluster.get("workflows", name)
        if body is not None and failed:
            self.cluster.set_status("workflows", name, {"phase": "Failed"})
        elif body is not None and all(map(self.is_done, tasks_of(body))):
            self.cluster.set_status("workflows", name, {"phase": "Succeeded"})

    def work(self) -> None:
        """Run every task that can run to its record."""
        self.start_pods()
        self.clock.advance(5)
        self.end_pods()

    def run_to_the_end(self, loop: Loop, name: str = "mine", steps: int = 40) -> None:
        for _ in range(steps):
            self.step(loop)
            if self.status(name).get("phase") in ("Succeeded", "Failed", "Refused"):
                return
            self.work()
        raise AssertionError(f"{name} did not end: {self.status(name)}")


def tasks_of(workflow: Document) -> list[str]:
    found: list[str] = json.loads(workflow["metadata"].get("annotations", {}).get(ANNOTATION_TASKS, "[]"))
    return found
