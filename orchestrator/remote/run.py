"""A study's run through the `Cluster` protocol: create the object, run the loop, handle Ctrl-C, detect the end.

The process may be killed at any time and started again by any user on any machine. The only state it needs is the run number, which is a
label of the running Workflows. If none is running, a new run begins, which retries failed tasks as a local run does. Two processes that
run the same study at once run no task twice, because Workflows are named after their tasks.
"""

import logging
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Any, Final

from orchestrator.cluster.port import Cluster, Document
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, API_VERSION, LABEL_STUDY, OBJECT_KIND
from orchestrator.controller.loop import Loop, LoopOptions
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.planning import Planned
from orchestrator.controller.snapshot import OURS, Snapshot
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.controller.watching import Watches
from orchestrator.errors import ClusterError, PlanRefused, Refused
from orchestrator.local import RunResult
from orchestrator.monitor.progress import Listener
from orchestrator.reconcile import Decision, Restart
from orchestrator.reconcile.observed import parse_workflow
from orchestrator.reconcile.task_states import IN_FLIGHT, TaskState
from orchestrator.remote.follow_logs import LogFollower
from orchestrator.remote.reporter import STARTUP_REASONS, RunReporter
from orchestrator.spec import Study
from orchestrator.store import Store

TICK: Final = 0.5
RELIST_SECONDS: Final = 60.0
# While stopping: the end of a pod is visible only in the store, so it is polled
STOPPING_SECONDS: Final = 2.0
# The run ends if the server rejects every Workflow for this long and no task is in flight
REJECTED_SECONDS: Final = 20.0
# Reasons of the Degraded condition: for Workflows of tasks, and for the Workflow that reads the study's files
REJECTION_REASONS: Final = ("SubmitRefused", Refused.__name__)

_UID_NAMESPACE: Final = uuid.UUID("5ca11a9e-0000-4000-8000-5ca1e57d1e50")


@dataclass(frozen=True, slots=True)
class RemoteOutcome:
    """How the run ended. `trouble`: why it cannot continue although no task failed, "" for none. `plan`: None if it was never planned.

    `was_detached`: the user pressed Ctrl-C twice; Workflows that were not stopped by then continue.
    """

    result: RunResult
    plan: Plan | None
    trouble: str = ""
    was_detached: bool = False


@dataclass
class Interrupts:
    """Handler of Ctrl-C: the first requests a stop, the second raises KeyboardInterrupt.

    Other signals, such as SIGHUP and SIGTERM, end the process, and the Workflows continue.
    """

    requested: bool = False
    _inbox: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)

    def request_stop(self) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._inbox.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until a stop is requested."""
        try:
            self._inbox.get(timeout=seconds)
        except queue.Empty:
            return

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.request_stop()

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def study_object(study: Study, namespace: str, store: str | None = None) -> Document:
    """Build the study's object, which no cluster stores. `store`: overrides the store of the file.

    The uid is the same in every run, because the fingerprints of the study's files are stored under it.
    """
    spec = {**study.document, **({"store": store} if store else {})}
    metadata = {"name": study.name, "uid": str(uuid.uuid5(_UID_NAMESPACE, f"{namespace}/{study.name}"))}
    return {"apiVersion": API_VERSION, "kind": OBJECT_KIND, "metadata": metadata, "spec": spec}


def run_study(
    cluster: Cluster,
    body: Document,
    store: Store,
    listener: Listener,
    interrupts: Interrupts,
    *,
    planned: Callable[[Plan], None] = lambda _: None,
    logs: bool = False,
    monotonic: Callable[[], float] = time.monotonic,
) -> RemoteOutcome:
    """Run the study until every task has a record, no task can continue, or the user stops it.

    `body`: from `study_object`; `store`: the study's store. `planned`: called when the plan is ready. `logs`: report the logs of pods.
    Raises PlanRefused if the study is rejected, TokenRefused at any time, and ClusterError or StoreError if the cluster or the store is
    unreachable at the start. During later outages, the run waits.
    """
    number = run_number(cluster, body["metadata"]["name"], store.clock())
    body["metadata"]["annotations"] = {ANNOTATION_RETRY: str(number)}
    created = cluster.create("scalingstudies", body)
    # with a known run number, earlier attempts count as attempts of this run
    cluster.patch_status(body["metadata"]["name"], {"runNumber": number}, created["metadata"]["resourceVersion"])
    with _forwarded_log(listener):
        run = _Run(cluster, body["metadata"]["name"], store, listener, interrupts, planned, monotonic)
        run.log_follower = LogFollower(cluster, listener.note) if logs else None
        try:
            return run.until_end()
        except KeyboardInterrupt:
            return run.detached()


def run_number(cluster: Cluster, study: str, now: datetime) -> int:
    """Return the number of the run with running Workflows, or else a new, higher number. Raises ClusterError."""
    running = []
    for page in cluster.pages("workflows", {**OURS, LABEL_STUDY: study}):
        for seen in map(parse_workflow, page.items):
            if seen.digests and not seen.is_over and not seen.was_stopped:
                running.append(seen.run_number)
    return max(running, default=int(now.timestamp()))


class _Run:
    def __init__(
        self, cluster: Cluster, name: str, store: Store, listener: Listener, interrupts: Interrupts,
        planned: Callable[[Plan], None], monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.name = name
        self.store = store
        self.listener = listener
        self.interrupts = interrupts
        self.planned = planned
        self.monotonic = monotonic
        self.log_follower: LogFollower | None = None
        self.reporter = RunReporter(store, listener, monotonic)
        metrics = Metrics()
        reconciler = StudyReconciler(cluster, lambda _url: store, store.clock, metrics)
        reconciler.on_reconciled = self._on_reconciled
        self.loop = Loop(cluster, reconciler, metrics, store.clock, options=LoopOptions(RELIST_SECONDS, policy=""), monotonic=monotonic)
        self.readers: list[str] = []
        self.is_stopping = False
        self.rejected_since: float | None = None
        self.next_check_at = float("-inf")

    def until_end(self) -> RemoteOutcome:
        stop = threading.Event()
        watches = Watches(self.cluster, stop, self.loop.wake, self.loop.relist, ("workflows",))

        def listed(snapshot: Snapshot) -> None:
            watches.start_from(snapshot.versions)
            self._report_file_readers(snapshot)

        self.loop.on_listed = listed
        watches.start()
        try:
            while True:
                self._handle_stop_request()
                self.loop.step()
                self.reporter.show()
                end = self._outcome()
                if end is not None:
                    return end
                self.interrupts.wait(TICK)
        finally:
            stop.set()

    def detached(self) -> RemoteOutcome:
        return RemoteOutcome(self._result(was_stopped=True), self.reporter.plan, was_detached=True)

    def _report_file_readers(self, snapshot: Snapshot) -> None:
        """Report the pods that fingerprint the study's files; they belong to no task, so no task's state shows them."""
        flights = {flight.name: flight for flight in snapshot.workflows.values() if flight.study == self.name and not flight.digests}
        self.readers = [flight.name for flight in flights.values() if not flight.is_over and not flight.was_stopped]
        for pod in snapshot.pods:
            if pod.workflow in flights and pod.reason and pod.reason not in STARTUP_REASONS:
                self.reporter.note_once(f"waiting to read the files: {pod.reason}", about=pod.reason)

    def _on_reconciled(self, planned: Planned, decision: Decision) -> None:
        if self.reporter.plan is None:
            self.planned(planned.plan)
        self.reporter.update(planned.plan, planned.digest, decision)
        if self.log_follower is not None:
            self.log_follower.update(planned.plan, decision.tasks)
        if any(isinstance(action, Restart) for action in decision.actions):
            # the stopped Workflow and its pods may still exist; a new run number gives the next ones other names
            number = str(int(self.store.clock().timestamp()))
            self.cluster.patch("scalingstudies", self.name, {"metadata": {"annotations": {ANNOTATION_RETRY: number}}})

    def _handle_stop_request(self) -> None:
        """On a requested stop, pause the study; then reconcile often until its pods have ended."""
        now = self.monotonic()
        if self.interrupts.requested and not self.is_stopping:
            self.is_stopping = True
            self.listener.note(
                "stopping: Workflows are being stopped, and their pods write a checkpoint before they exit; "
                "press Ctrl-C again to exit at once; Workflows that are not stopped by then continue"
            )
            self.cluster.patch("scalingstudies", self.name, {"spec": {"paused": True}})
            with suppress(ClusterError):
                for reader in self.readers:
                    self.cluster.stop_workflow(reader)
        if self.is_stopping and now >= self.next_check_at:
            self.next_check_at = now + STOPPING_SECONDS
            self.loop.wake(self.name)

    def _outcome(self) -> RemoteOutcome | None:
        """Return the outcome if the status shows that the run has ended, else None."""
        body = self.cluster.get("scalingstudies", self.name)
        assert body is not None
        status: dict[str, Any] = body.get("status") or {}
        conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
        self._report_conditions(conditions)
        refused = self._end_if_rejected(conditions.get("Degraded") or {})
        if refused is not None or status.get("observedGeneration") != body["metadata"].get("generation", 1):
            return refused
        phase = status["phase"]
        if phase == "Succeeded":
            return RemoteOutcome(self._result(), self.reporter.plan)
        if self.is_stopping:
            return RemoteOutcome(self._result(was_stopped=True), self.reporter.plan) if phase in ("Paused", "Planning", "Refused") else None
        if phase == "Refused":
            raise PlanRefused(next(entry["message"] for entry in conditions.values() if entry["status"] == "False"))
        if phase == "Held":
            held = conditions["BudgetExhausted"]
            trouble = f"the budget does not cover the remaining tasks ({held['message']}); raise spec.budget"
            return RemoteOutcome(self._result(), self.reporter.plan, trouble)
        return RemoteOutcome(self._result(), self.reporter.plan) if phase == "Failed" else None

    def _end_if_rejected(self, degraded: Document) -> RemoteOutcome | None:
        """Return the outcome if the server has rejected every Workflow for REJECTED_SECONDS with no task in flight, else None."""
        is_rejected = degraded.get("status") == "True" and degraded.get("reason") in REJECTION_REASONS
        if not is_rejected or self.reporter.digests(*IN_FLIGHT):
            self.rejected_since = None
            return None
        now = self.monotonic()
        self.rejected_since = self.rejected_since if self.rejected_since is not None else now
        if now - self.rejected_since < REJECTED_SECONDS:
            return None
        return RemoteOutcome(self._result(), self.reporter.plan, f"the server rejects the Workflows: {degraded['message']}")

    def _report_conditions(self, conditions: dict[str, Document]) -> None:
        """Report each condition that blocks the study once. Failed tasks are reported one by one elsewhere."""
        planned, degraded = conditions.get("Planned") or {}, conditions.get("Degraded") or {}
        if planned.get("status") == "False":
            self.reporter.note_once(f"no plan yet: {planned['message']}")
        if degraded.get("status") == "True" and degraded.get("reason") not in ("CellsFailed", "Stalled"):
            self.reporter.note_once(f"{degraded['reason']}: {degraded['message']}")

    def _result(self, *, was_stopped: bool = False) -> RunResult:
        seen = self.reporter
        return RunResult(
            done=frozenset(seen.digests(TaskState.DONE)),
            skipped=seen.skipped,
            failed={digest: seen.tasks[digest].reason for digest in seen.digests(TaskState.FAILED)},
            held_back=frozenset(seen.digests(TaskState.BLOCKED)),
            was_stopped=was_stopped,
            seconds=seen.seconds(),
        )


class _ListenerHandler(logging.Handler):
    """Forwards log records to the listener."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener.note(self.format(record))


@contextmanager
def _forwarded_log(listener: Listener) -> Iterator[None]:
    """Forward the controller's log to the listener: submitted Workflows and the reasons of retries."""
    log, handler = logging.getLogger("orchestrator.controller"), _ListenerHandler(listener)
    level, propagates = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates
