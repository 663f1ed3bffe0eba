"""What the loop sees of a study -> what a person sees: the lines and the live view of a local run.

`run` hands over every look. How far a task is stands in its lease, which the trainer renews with its progress.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.contract.events import Progress
from orchestrator.contract.formatting import duration
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import StoreError
from orchestrator.local.schedule import cost
from orchestrator.monitor.progress import Listener, Meter, Snapshot
from orchestrator.reconcile import Decision
from orchestrator.reconcile.observe import TaskSeen, TaskState
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import history

AT_WORK: Final = frozenset({TaskState.RUNNING, TaskState.STALLED, TaskState.STOPPING})
# Leases are renewed every five seconds at most
PROGRESS_SECONDS: Final = 5.0
# A terminal shows some dozens of lines; the progress of more tasks is not asked for
SHOWN: Final = 24
# What every pod waits for
STARTING: Final = ("PodInitializing", "ContainerCreating")
# Events that states do not tell
TOLD_EVENTS: Final = ("TaskReused", "Stalled", "Overrun")
# What Argo says when a pod's service account, or the Secret with its token, is not in the namespace
_ACCOUNT_WORDS: Final = ("serviceaccount", "service account", "service-account-token")
_ACCOUNT_HINT: Final = (
    "the Workflows need the service accounts scaling-study-trainer and scaling-study-executor and the Secret "
    "scaling-study-executor.service-account-token in the namespace; the platform team installs them with manifests/base"
)


class Telling:
    """Lines as states change, and the run at this moment. `plan` is None before the first look at a study that has one."""

    def __init__(self, store: Store, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan: Plan | None = None
        self.tasks: Mapping[str, TaskSeen] = {}
        self.skipped = 0
        self._plan_digest = ""
        self._store = store
        self._listener = listener
        self._clock = clock
        self._begun_at = clock()
        self._meter = Meter(self._begun_at, 0.0)
        self._since: dict[str, float] = {}
        self._started: set[str] = set()
        self._told: set[str] = set()
        self._progress_at = float("-inf")

    def looked(self, plan: Plan, digest: str, decision: Decision) -> None:
        """The loop has looked, decided and acted. `digest`: of the plan, which is read anew when the object changes."""
        if self._plan_digest != digest:
            self._plan_digest = digest
            self._begin(plan, decision.tasks)
        for digest, seen in decision.tasks.items():
            before = self.tasks.get(digest)
            if before is None or before.state != seen.state:
                self._changed(plan, digest, seen, is_first=before is None)
            if seen.state == TaskState.QUEUED and seen.reason and seen.reason not in STARTING:
                self.once(f"waits   {self._name(digest)}: {seen.reason}", about=seen.reason)
        self.tasks = decision.tasks
        for event in decision.events:
            if event.reason in TOLD_EVENTS:
                self.once(f"{event.reason}: {event.message}")

    def once(self, text: str, about: str = "") -> None:
        """A line that is told once, however often it is true. `about`: what makes two lines the same, the text itself unless given."""
        if (about or text) not in self._told:
            self._told.add(about or text)
            self._listener.note(text)
            if any(word in text.lower() for word in _ACCOUNT_WORDS):
                self.once(_ACCOUNT_HINT)

    def show(self) -> None:
        """Show the run as it is now."""
        if self.plan is None:
            return
        now = self._clock()
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_SECONDS
            self._read_progress(self.plan, now)
        self._listener.show(self._snapshot(now))

    def seconds(self) -> float:
        """How long it has run."""
        return self._clock() - self._begun_at

    def digests(self, *states: TaskState) -> set[str]:
        """The tasks in one of these states."""
        return {digest for digest, seen in self.tasks.items() if seen.state in states}

    def _begin(self, plan: Plan, tasks: Mapping[str, TaskSeen]) -> None:
        done = {digest for digest, seen in tasks.items() if seen.state == TaskState.DONE}
        self.plan, self.tasks, self.skipped = plan, {}, len(done)
        self._since, self._started = {}, set()
        self._meter = Meter(self._clock(), sum(cost(plan, task) for digest, task in plan.tasks.items() if digest not in done))
        self._listener.note(f"{plan.study}: {len(plan.cells)} cells, {len(plan.tasks)} tasks, results in {self._store.url}")

    def _changed(self, plan: Plan, digest: str, seen: TaskSeen, *, is_first: bool) -> None:
        now, task = self._clock(), plan.tasks[digest]
        if seen.state in AT_WORK and digest not in self._since:
            self._since[digest] = now
            self._meter.given(task, cost(plan, task), now)
        elif seen.state not in AT_WORK and digest in self._since:
            since = self._since.pop(digest)
            self._started.discard(digest)
            self._meter.ended(digest, seen.state == TaskState.DONE)
            if seen.state == TaskState.DONE:
                self._listener.note(f"done    {self._name(digest)} ({duration(now - since)})")
                return
        if seen.state == TaskState.DONE and not is_first:
            self._listener.note(f"done    {self._name(digest)}")
        elif seen.state == TaskState.FAILED:
            self._listener.note(f"FAILED  {self._name(digest)}, for good: {seen.reason}")

    def _read_progress(self, plan: Plan, now: float) -> None:
        """A store that is away leaves the last that was known."""
        for digest in list(self._since)[:SHOWN]:
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
        gone = counts[TaskState.DONE] + counts[TaskState.FAILED] + counts[TaskState.BLOCKED]
        return Snapshot(
            total=len(self.tasks),
            done=counts[TaskState.DONE],
            skipped=self.skipped,
            waiting=len(self.tasks) - gone - len(running),
            failed=counts[TaskState.FAILED],
            held_back=counts[TaskState.BLOCKED],
            running=running,
            tokens=self._meter.tokens(),
            tokens_per_second=sum(task.per_second for task in running if task.unit == "tokens"),
            elapsed=now - self._begun_at,
            eta=self._meter.eta(now),
        )

    def _name(self, digest: str) -> str:
        assert self.plan is not None
        task = self.plan.tasks[digest]
        return f"{task.kind} {task.label} [{digest[:12]}]"
