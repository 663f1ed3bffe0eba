"""A namespace with simulated Argo, kubelet and trainers: pods of Workflows start and write records when a test requests it."""

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
from orchestrator.contract.vocabulary import (
    ANNOTATION_TASKS,
    LABEL_DIGEST,
    LABEL_MANAGED_BY,
    LABEL_RUN,
    LABEL_STORE,
    LABEL_STUDY,
    MANAGED_BY,
)
from orchestrator.controller.loop import Loop
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.errors import Damaged, LeaseHeld
from orchestrator.reconcile.observed import ANNOTATION_NODE_ID, LABEL_WORKFLOW
from orchestrator.store import Store
from orchestrator.store.addresses import lease_key, work_root
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.memory import InMemoryObjects
from orchestrator.store.records import find_record, publish_record, read_task
from orchestrator.workflow import store_label
from tests.study_spec import study_spec

T0 = datetime(2030, 1, 1, tzinfo=UTC)
SPEC = study_spec("memory://simulated", ["0.03M"], "s3://corpora/") | {"execution": {"image": "trainer:1"}}


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


@dataclass(frozen=True)
class _Attempt:
    """The trainer in a pod."""

    digest: str
    store: Store
    lease: Lease


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
        self._attempts: dict[str, _Attempt] = {}

    # The controller

    def controller(self, may_work: Callable[[], bool] = lambda: True) -> Loop:
        """Return a new controller with empty caches."""
        metrics = Metrics()
        reconciler = StudyReconciler(self.cluster, lambda url: self._stores.get(url, self.store), self.clock, metrics)
        return Loop(self.cluster, reconciler, metrics, self.clock, may_work=may_work, monotonic=self.clock.seconds)

    def open_apart(self, url: str) -> InMemoryObjects:
        """Open another store and return its objects."""
        objects = InMemoryObjects(clock=self.clock)
        self._stores[url] = Store(objects, url, self.clock)
        return objects

    def step(self, loop: Loop, steps: int = 1) -> None:
        """Run some steps of the loop; each reconciles all studies."""
        for _ in range(steps):
            self.clock.advance(61)
            loop.relist()
            loop.step()

    # Users

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
            left = [digest for digest in tasks_of(body) if not self._is_done(digest, self._store_of(body))]
            if left and name not in with_pods:
                self._start(body, left[0])

    def _store_of(self, body: Document) -> Store:
        """Return the store that a Workflow or a pod writes to."""
        label = body["metadata"]["labels"][LABEL_STORE]
        return next((store for url, store in self._stores.items() if store_label(url) == label), self.store)

    def _start(self, workflow: Document, digest: str) -> None:
        name = workflow["metadata"]["name"]
        labels = {
            LABEL_MANAGED_BY: MANAGED_BY, LABEL_WORKFLOW: name, LABEL_DIGEST: digest[:32],
            LABEL_STUDY: workflow["metadata"]["labels"][LABEL_STUDY], LABEL_STORE: workflow["metadata"]["labels"][LABEL_STORE],
        }  # fmt: skip
        owner = {"uid": workflow["metadata"]["uid"], "name": name, "kind": "Workflow", "apiVersion": "argoproj.io/v1alpha1"}
        pod, store = f"{name}-{digest[:8]}", self._store_of(workflow)
        holder = Holder(
            study=labels[LABEL_STUDY],
            run_number=int(workflow["metadata"]["labels"][LABEL_RUN]),
            host=pod,
            gpus=self.gpus,
            workflow_node=pod,
        )
        try:
            self._attempts[pod] = _Attempt(digest, store, acquire(store, self._root(digest, store), digest, holder))
        except LeaseHeld:
            # the trainer exits with 69 and is retried later
            return
        metadata = {"name": pod, "labels": labels, "annotations": {ANNOTATION_NODE_ID: pod}, "ownerReferences": [owner]}
        limits = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        spec = {"nodeName": "n", "containers": [{"name": "main", "resources": {"limits": limits}}]}
        self.cluster.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "startTime": stamp(self.clock.now)}})

    def _root(self, digest: str, store: Store) -> str:
        identity = read_task(store, digest).identity()
        if identity["kind"] == "train":
            return work_root("train", digest_of(identity["trajectory"]))
        return work_root(identity["kind"], digest)

    def _is_done(self, digest: str, store: Store) -> bool:
        """Whether the trainer would find an intact record."""
        try:
            return find_record(store, digest) is not None
        except Damaged:
            return False

    def end_pods(self, code: int = ExitCode.DONE, message: str = "") -> None:
        """End every pod, with a record or with an exit code in its lease."""
        for pod in self.cluster.list("pods").items:
            workflow = pod["metadata"]["labels"][LABEL_WORKFLOW]
            attempt = self._attempts.pop(pod["metadata"]["name"])
            if code == ExitCode.DONE:
                self.ran.append(attempt.digest)
                publish_record(attempt.store, self._record(attempt))
            attempt.lease.end("in a test", code, message)
            self._remove_pod(pod)
            self._update_workflow(workflow, failed=code == ExitCode.REFUSED)

    def renew_leases(self) -> None:
        """Let every trainer make progress."""
        for attempt in self._attempts.values():
            attempt.lease.renew_uncounted()

    def _remove_pod(self, pod: Document, **status: str) -> None:
        """Remove a pod that has ended. Argo records its end, and `status`, in the Workflow if that still exists."""
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        if self.cluster.get("workflows", labels[LABEL_WORKFLOW]) is not None:
            number = len(((self.cluster.get("workflows", labels[LABEL_WORKFLOW]) or {}).get("status") or {}).get("nodes") or {})
            parameters = [{"name": "short", "value": labels[LABEL_DIGEST]}]
            ended = {
                "name": name,
                "type": "Pod",
                "phase": "Succeeded",
                "finishedAt": stamp(self.clock.now),
                "inputs": {"parameters": parameters},
            }
            nodes = {name: ended, f"{name}-{number}": ended}
            self.cluster.set_status("workflows", labels[LABEL_WORKFLOW], {"nodes": nodes, **status})
        self.cluster.remove("pods", name)

    def lose_node(self, pod: str) -> None:
        """Lose the node of a pod permanently: the pod is marked as deleted and never ends."""
        body = self.cluster.get("pods", pod)
        assert body is not None
        self.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
        self.cluster.delete("pods", pod)
        # a later attempt takes over the lease
        self._attempts.pop(pod).lease.end("lost in a test", 137)

    def run_out_of_memory(self) -> None:
        """Kill every pod for its memory: its lease has no end, and Argo marks the Workflow as failed."""
        for pod in self.cluster.list("pods").items:
            self._attempts.pop(pod["metadata"]["name"])
            self._remove_pod(pod, phase="Failed", message="main: OOMKilled (exit code 137)")

    def never_begin(self) -> None:
        """Fail every Workflow because of a missing image: no lease exists."""
        for pod in self.cluster.list("pods").items:
            lease = self._attempts.pop(pod["metadata"]["name"]).lease
            self.store.objects.delete(lease_key(lease.work_root, lease.number))
            self._remove_pod(pod, phase="Failed", message="ImagePullBackOff")

    def _record(self, attempt: _Attempt) -> Record:
        identity = read_task(attempt.store, attempt.digest).identity()
        return Record(digest=attempt.digest, identity=identity, results={"tokens": 1}, artifacts={}, attempts=[], nonce=attempt.digest)

    def _update_workflow(self, name: str, *, failed: bool) -> None:
        body = self.cluster.get("workflows", name)
        if body is not None and failed:
            self.cluster.set_status("workflows", name, {"phase": "Failed"})
        elif body is not None and all(self._is_done(digest, self._store_of(body)) for digest in tasks_of(body)):
            self.cluster.set_status("workflows", name, {"phase": "Succeeded"})

    def work(self) -> None:
        """Complete every task that can run, with a record."""
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


def stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def tasks_of(workflow: Document) -> list[str]:
    found: list[str] = json.loads(workflow["metadata"].get("annotations", {}).get(ANNOTATION_TASKS, "[]"))
    return found
