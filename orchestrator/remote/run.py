"""A study's whole run through the port: object, loop, a person's Ctrl-C, the end.

It may be killed at any moment and started again, by the same person or another, on the same machine or another. What it must not forget
is the run number, and that stands on the Workflows that are at work; where nothing is, a new run begins, in which what has failed is tried
again, as in a local run. Two that run the same study at once do no task twice: Workflows are named after their tasks.
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
from orchestrator.controller.loop import Loop, Pace
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.planning import Planned
from orchestrator.controller.snapshot import OURS, Snapshot
from orchestrator.controller.study_reconciler import Passes
from orchestrator.controller.watching import Watches
from orchestrator.errors import ClusterError, PlanRefused, Refused
from orchestrator.local import RunResult
from orchestrator.monitor.progress import Listener
from orchestrator.reconcile import Decision, Restart
from orchestrator.reconcile.observe import IN_FLIGHT, TaskState, workflow_seen
from orchestrator.remote.follow_logs import Following
from orchestrator.remote.reporter import STARTING, Telling
from orchestrator.spec import Study
from orchestrator.store import Store

TICK: Final = 0.5
RELIST_SECONDS: Final = 60.0
# While pods end, nothing but the store says so
STOPPING_SECONDS: Final = 2.0
# A server that refuses every Workflow for so long, with nothing at work, will not change its mind by itself
REFUSED_SECONDS: Final = 20.0
# Of the Workflows that do tasks, and of the one that reads the study's files
REFUSALS: Final = ("SubmitRefused", Refused.__name__)

_PLACE: Final = uuid.UUID("5ca11a9e-0000-4000-8000-5ca1e57d1e50")


@dataclass(frozen=True, slots=True)
class End:
    """How the run ended. `trouble`: why it does not go on although nothing has failed, "" for none. `plan`: None if there never was one.

    `was_left`: the person left at once, and what was not stopped goes on.
    """

    result: RunResult
    plan: Plan | None
    trouble: str = ""
    was_left: bool = False


@dataclass
class Interrupts:
    """Ctrl-C: the first is a wish to stop, the second raises KeyboardInterrupt wherever the program is.

    Only Ctrl-C: a terminal that closes or a kill ends the program and leaves the Workflows at work.
    """

    asked: bool = False
    _inbox: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)

    def ask(self) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._inbox.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until somebody asks."""
        try:
            self._inbox.get(timeout=seconds)
        except queue.Empty:
            return

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            self.ask()

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def study_object(study: Study, namespace: str, store: str | None = None) -> Document:
    """The object of a study that no cluster keeps. `store`: where it is, instead of what the file says.

    Its uid is the same in every run, since what a pod has found out about its files is kept under it.
    """
    spec = {**study.document, **({"store": store} if store else {})}
    metadata = {"name": study.name, "uid": str(uuid.uuid5(_PLACE, f"{namespace}/{study.name}"))}
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
) -> End:
    """Brings every task of the study to a record, or ends when nothing can go on or the person asked.

    `body`: from `study_object`; `store`: the one it names. `planned`: called once there is a plan. `logs`: tell what pods write. Raises
    PlanRefused for a study that may not run, ClusterError and StoreError when they cannot be reached at the start, TokenRefused at any
    time; when they go away later, it waits for them.
    """
    number = run_number(cluster, body["metadata"]["name"], store.clock())
    body["metadata"]["annotations"] = {ANNOTATION_RETRY: str(number)}
    made = cluster.create("scalingstudies", body)
    # the number is known: attempts of before are those of an earlier process of this run
    cluster.patch_status(body["metadata"]["name"], {"runNumber": number}, made["metadata"]["resourceVersion"])
    with _logged(listener):
        run = _Run(cluster, body["metadata"]["name"], store, listener, interrupts, planned, monotonic)
        run.following = Following(cluster, listener.note) if logs else None
        try:
            return run.to_its_end()
        except KeyboardInterrupt:
            return run.left()


def run_number(cluster: Cluster, study: str, now: datetime) -> int:
    """The number of the run whose Workflows are at work; a new one, higher than all before, when none is. Raises ClusterError."""
    going_on = []
    for page in cluster.pages("workflows", {**OURS, LABEL_STUDY: study}):
        for seen in map(workflow_seen, page.items):
            if seen.digests and not seen.is_over and not seen.was_stopped:
                going_on.append(seen.run_number)
    return max(going_on, default=int(now.timestamp()))


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
        self.following: Following | None = None
        self.telling = Telling(store, listener, monotonic)
        metrics = Metrics()
        passes = Passes(cluster, lambda _url: store, store.clock, metrics)
        passes.looked = self._looked
        self.loop = Loop(cluster, passes, metrics, store.clock, pace=Pace(RELIST_SECONDS), monotonic=monotonic)
        self.readers: list[str] = []
        self.is_stopping = False
        self.refused_since: float | None = None
        self.look_again_at = float("-inf")

    def to_its_end(self) -> End:
        stop = threading.Event()
        watches = Watches(self.cluster, stop, self.loop.wake, self.loop.relist, ("workflows",))

        def listed(snapshot: Snapshot) -> None:
            watches.listed(snapshot.versions)
            self._look_at_readers(snapshot)

        self.loop.listed = listed
        watches.start()
        try:
            while True:
                self._obey()
                self.loop.turn()
                self.telling.show()
                end = self._end()
                if end is not None:
                    return end
                self.interrupts.wait(TICK)
        finally:
            stop.set()

    def left(self) -> End:
        return End(self._result(was_stopped=True), self.telling.plan, was_left=True)

    def _look_at_readers(self, snapshot: Snapshot) -> None:
        """Pods that read the study's files before it has a plan: no state of a task tells what becomes of them."""
        flights = {flight.name: flight for flight in snapshot.workflows.values() if flight.study == self.name and not flight.digests}
        self.readers = [flight.name for flight in flights.values() if not flight.is_over and not flight.was_stopped]
        for pod in snapshot.pods:
            if pod.workflow in flights and pod.reason and pod.reason not in STARTING:
                self.telling.once(f"waits   to read the files: {pod.reason}", about=pod.reason)

    def _looked(self, planned: Planned, decision: Decision) -> None:
        if self.telling.plan is None:
            self.planned(planned.plan)
        self.telling.looked(planned.plan, planned.digest, decision)
        if self.following is not None:
            self.following.looked(planned.plan, decision.tasks)
        if any(isinstance(action, Restart) for action in decision.actions):
            # its Workflow was stopped; the next one must not have its name, nor its pods those of pods that may still be there
            number = str(int(self.store.clock().timestamp()))
            self.cluster.patch("scalingstudies", self.name, {"metadata": {"annotations": {ANNOTATION_RETRY: number}}})

    def _obey(self) -> None:
        """The wish to stop is the study's `paused`; while pods end, look often."""
        now = self.monotonic()
        if self.interrupts.asked and not self.is_stopping:
            self.is_stopping = True
            self.listener.note(
                "stopping: Workflows are asked to stop, and their pods write a checkpoint and end; "
                "Ctrl-C again leaves at once, and what is not stopped by then goes on"
            )
            self.cluster.patch("scalingstudies", self.name, {"spec": {"paused": True}})
            with suppress(ClusterError):
                for reader in self.readers:
                    self.cluster.stop_workflow(reader)
        if self.is_stopping and now >= self.look_again_at:
            self.look_again_at = now + STOPPING_SECONDS
            self.loop.wake(self.name)

    def _end(self) -> End | None:
        """The end, if this is it, by the status that the last look has written."""
        body = self.cluster.get("scalingstudies", self.name)
        assert body is not None
        status: dict[str, Any] = body.get("status") or {}
        conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
        self._tell(conditions)
        refused = self._end_of_the_refused(conditions.get("Degraded") or {})
        if refused is not None or status.get("observedGeneration") != body["metadata"].get("generation", 1):
            return refused
        phase = status["phase"]
        if phase == "Succeeded":
            return End(self._result(), self.telling.plan)
        if self.is_stopping:
            return End(self._result(was_stopped=True), self.telling.plan) if phase in ("Paused", "Planning", "Refused") else None
        if phase == "Refused":
            raise PlanRefused(next(entry["message"] for entry in conditions.values() if entry["status"] == "False"))
        if phase == "Held":
            held = conditions["BudgetExhausted"]
            return End(self._result(), self.telling.plan, f"the budget does not allow the rest ({held['message']}); raise spec.budget")
        return End(self._result(), self.telling.plan) if phase == "Failed" else None

    def _end_of_the_refused(self, degraded: Document) -> End | None:
        """The server takes no Workflow, and nothing is at work that could change that."""
        is_refused = degraded.get("status") == "True" and degraded.get("reason") in REFUSALS
        if not is_refused or self.telling.digests(*IN_FLIGHT):
            self.refused_since = None
            return None
        now = self.monotonic()
        self.refused_since = self.refused_since if self.refused_since is not None else now
        if now - self.refused_since < REFUSED_SECONDS:
            return None
        return End(self._result(), self.telling.plan, f"the server refuses the Workflows: {degraded['message']}")

    def _tell(self, conditions: dict[str, Document]) -> None:
        """What keeps the study from going on, each thing once; what has failed is told task by task."""
        planned, degraded = conditions.get("Planned") or {}, conditions.get("Degraded") or {}
        if planned.get("status") == "False":
            self.telling.once(f"no plan yet: {planned['message']}")
        if degraded.get("status") == "True" and degraded.get("reason") not in ("CellsFailed", "Stalled"):
            self.telling.once(f"{degraded['reason']}: {degraded['message']}")

    def _result(self, *, was_stopped: bool = False) -> RunResult:
        seen = self.telling
        return RunResult(
            done=frozenset(seen.digests(TaskState.DONE)),
            skipped=seen.skipped,
            failed={digest: seen.tasks[digest].reason for digest in seen.digests(TaskState.FAILED)},
            held_back=frozenset(seen.digests(TaskState.BLOCKED)),
            was_stopped=was_stopped,
            seconds=seen.seconds(),
        )


class _Notes(logging.Handler):
    """Log lines of the loop as lines for the person."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener.note(self.format(record))


@contextmanager
def _logged(listener: Listener) -> Iterator[None]:
    """What the loop logs is told: Workflows that were submitted, and why something is asked for again."""
    log, handler = logging.getLogger("orchestrator.controller"), _Notes(listener)
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
