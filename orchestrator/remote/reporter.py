"""Report a remote run with the same lines and live view as a local run.

Called by `run` after every reconcile. The progress of a task is read from its lease, which the trainer renews.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.contract.events import Progress
from orchestrator.contract.formatting import format_duration
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import StoreError
from orchestrator.local.schedule import cost
from orchestrator.monitor.progress import Listener, Meter, Snapshot
from orchestrator.reconcile import Decision
from orchestrator.reconcile.task_states import TaskState, TaskStatus
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import history

ACTIVE: Final = frozenset({TaskState.RUNNING, TaskState.STALLED, TaskState.STOPPING})
# Leases are renewed at most every five seconds
PROGRESS_SECONDS: Final = 5.0
# Tasks whose progress is read; a terminal shows a few dozen lines
MAX_SHOWN: Final = 24
# Reasons for waiting that every pod passes through, which are not reported
STARTUP_REASONS: Final = ("PodInitializing", "ContainerCreating")
# Events that are not visible in the states of tasks
REPORTED_EVENTS: Final = ("TaskReused", "Stalled", "Overrun")
# Words in Argo's messages if a service account, or the Secret with its token, is missing in the namespace
_ACCOUNT_TERMS: Final = ("serviceaccount", "service account", "service-account-token")
_ACCOUNT_HINT: Final = (
    "the Workflows need the service accounts scaling-study-trainer and scaling-study-executor and the Secret "
    "scaling-study-executor.service-account-token in the namespace; the platform team installs them with manifests/base"
)


class RunReporter:
    """Reports state changes as lines and the current state as a snapshot. `plan` is None until the study is planned."""

    def __init__(self, store: Store, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan: Plan | None = None
        self.tasks: Mapping[str, TaskStatus] = {}
        self.skipped = 0
        self._plan_digest = ""
        self._store = store
        self._listener = listener
        self._clock = clock
        self._began_at = clock()
        self._meter = Meter(self._began_at, 0.0)
        self._since: dict[str, float] = {}
        self._started: set[str] = set()
        self._reported: set[str] = set()
        self._progress_at = float("-inf")

    def update(self, plan: Plan, digest: str, decision: Decision) -> None:
        """Report the changes since the last reconcile. `digest`: of the plan, which changes if the study is edited."""
        if self._plan_digest != digest:
            self._plan_digest = digest
            self._begin(plan, decision.tasks)
        for digest, seen in decision.tasks.items():
            before = self.tasks.get(digest)
            if before is None or before.state != seen.state:
                self._report_change(plan, digest, seen, is_first=before is None)
            if seen.state == TaskState.QUEUED and seen.reason and seen.reason not in STARTUP_REASONS:
                self.note_once(f"waiting {self._name(digest)}: {seen.reason}", about=seen.reason)
        self.tasks = decision.tasks
        for event in decision.events:
            if event.reason in REPORTED_EVENTS:
                self.note_once(f"{event.reason}: {event.message}")

    def note_once(self, text: str, about: str = "") -> None:
        """Report a line unless it was reported before. `about`: the key by which lines are compared, by default the text."""
        if (about or text) not in self._reported:
            self._reported.add(about or text)
            self._listener.note(text)
            if any(word in text.lower() for word in _ACCOUNT_TERMS):
                self.note_once(_ACCOUNT_HINT)

    def show(self) -> None:
        """Show the current state of the run."""
        if self.plan is None:
            return
        now = self._clock()
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_SECONDS
            self._read_progress(self.plan, now)
        self._listener.show(self._snapshot(now))

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return self._clock() - self._began_at

    def digests(self, *states: TaskState) -> set[str]:
        """Return the digests of the tasks in one of these states."""
        return {digest for digest, seen in self.tasks.items() if seen.state in states}

    def _begin(self, plan: Plan, tasks: Mapping[str, TaskStatus]) -> None:
        done = {digest for digest, seen in tasks.items() if seen.state == TaskState.DONE}
        self.plan, self.tasks, self.skipped = plan, {}, len(done)
        self._since, self._started = {}, set()
        self._meter = Meter(self._clock(), sum(cost(plan, task) for digest, task in plan.tasks.items() if digest not in done))
        self._listener.note(f"{plan.study}: {len(plan.cells)} cells, {len(plan.tasks)} tasks, results in {self._store.url}")

    def _report_change(self, plan: Plan, digest: str, seen: TaskStatus, *, is_first: bool) -> None:
        now, task = self._clock(), plan.tasks[digest]
        if seen.state in ACTIVE and digest not in self._since:
            self._since[digest] = now
            self._meter.given(task, cost(plan, task), now)
        elif seen.state not in ACTIVE and digest in self._since:
            since = self._since.pop(digest)
            self._started.discard(digest)
            self._meter.ended(digest, seen.state == TaskState.DONE)
            if seen.state == TaskState.DONE:
                self._listener.note(f"done    {self._name(digest)} ({format_duration(now - since)})")
                return
        if seen.state == TaskState.DONE and not is_first:
            self._listener.note(f"done    {self._name(digest)}")
        elif seen.state == TaskState.FAILED:
            self._listener.note(f"FAILED  {self._name(digest)} permanently: {seen.reason}")

    def _read_progress(self, plan: Plan, now: float) -> None:
        """Read progress from the leases. If the store is unreachable, the last known progress is kept."""
        for digest in list(self._since)[:MAX_SHOWN]:
            task = plan.tasks[digest]
            if not isinstance(task.task, TrainTask):
                continue
            try:
                leases = [lease for lease in history(self._store, work_root(task.kind, task.work)) if lease.digest == digest]
            except StoreError:
                return
            if leases and leases[-1].took_up and leases[-1].ended is None:
                if digest not in self._started:
                    self._started.add(digest)
                    self._meter.started(digest, leases[-1].from_tokens)
                self._meter.progressed(Progress(digest, leases[-1].tokens, task.task.tokens, "tokens"), now)

    def _snapshot(self, now: float) -> Snapshot:
        counts = Counter(seen.state for seen in self.tasks.values())
        running = self._meter.running()
        settled = counts[TaskState.DONE] + counts[TaskState.FAILED] + counts[TaskState.BLOCKED]
        return Snapshot(
            total=len(self.tasks),
            done=counts[TaskState.DONE],
            skipped=self.skipped,
            waiting=len(self.tasks) - settled - len(running),
            failed=counts[TaskState.FAILED],
            held_back=counts[TaskState.BLOCKED],
            running=running,
            tokens=self._meter.tokens(),
            tokens_per_second=sum(task.per_second for task in running if task.unit == "tokens"),
            elapsed=now - self._began_at,
            eta=self._meter.eta(now),
        )

    def _name(self, digest: str) -> str:
        assert self.plan is not None
        task = self.plan.tasks[digest]
        return f"{task.kind} {task.label} [{digest[:12]}]"
