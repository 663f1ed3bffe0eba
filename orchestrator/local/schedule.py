"""Select the next task of a plan for an idle worker, and interpret exit codes.

Pure: no clock, process or file access. `run` reports the end of each attempt and requests the next task. Times are seconds of one clock.
"""

import difflib
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from orchestrator.contract.exits import ExitCode, Reaction, meaning_of
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import PlanRefused

# Maximum delay before a failed task is retried, in seconds: 1, 2, 4, ...
MAX_BACKOFF: Final = 60.0
# Maximum delay before a task whose lease another worker holds is retried, in seconds: 2, 4, ...
MAX_LEASE_DELAY: Final = 30.0
# The trainer counts the failures that it can record, and exits with 78 at its limit. This limit is for the others: a full disk, an
# unreachable store.
MAX_UNRECORDED_FAILURES: Final = 10
# Fixed overhead of a step, in parameters: four tiny shapes took 10, 17, 28 and 49 s for N = 60k, 139k, 321k and 734k on one core.
OVERHEAD_PARAMETERS: Final = 110_000
# Assumed tokens per evaluation; it only has to be small compared with training
EVALUATED_TOKENS: Final = 50_000


class State(Enum):
    """State of a task in this run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Outcome(Enum):
    """Result of an attempt."""

    DONE = "done"
    AGAIN = "again"
    HELD = "held"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """Outcome of an attempt. `delay`: seconds until the task may start again, for AGAIN and HELD."""

    outcome: Outcome
    delay: float = 0.0


def wanted_tasks(plan: Plan, only: Collection[str] = ()) -> set[str]:
    """Return the digests of the selected cells' tasks and of all tasks they need.

    `only`: cell names or patterns such as `*-470M-*`; empty selects all cells. Raises PlanRefused if a pattern matches no cell.
    """
    if not only:
        return set(plan.tasks)
    wanted: set[str] = set()
    names = [cell.name for cell in plan.cells]
    for pattern in only:
        chosen = [cell for cell in plan.cells if fnmatchcase(cell.name, pattern)]
        if not chosen:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise PlanRefused(f"--only {pattern}: no cell of {plan.study} matches. Similar names: {', '.join(close)}")
        for cell in chosen:
            for stage in cell.stages:
                wanted.update(stage.trains)
                wanted.update(evaluation.digest for evaluation in stage.evaluations)
    return _with_needs(plan.tasks, wanted)


def cost(plan: Plan, planned: PlannedTask) -> float:
    """Return the cost of a task in tokens x parameters; 0 for prepare, whose size is unknown. Orders tasks and scales the ETA."""
    if planned.kind is TaskKind.PREPARE:
        return 0.0
    shape = plan.shapes.get(planned.size)
    parameters = (shape.n if shape else 0) + OVERHEAD_PARAMETERS
    if isinstance(planned.task, TrainTask):
        return float((planned.task.tokens - planned.from_tokens) * parameters)
    return EVALUATED_TOKENS * parameters / 3


def in_order(plan: Plan, wanted: Collection[str], done: Collection[str]) -> Iterator[PlannedTask]:
    """Yield the open tasks in the order in which one worker would run them, for `run --dry-run`."""
    schedule = Schedule(plan, wanted, done)
    while (planned := schedule.next(0.0)) is not None:
        yield planned
        schedule.ended(planned.digest, ExitCode.DONE, 0.0)


class Schedule:
    """The selected tasks and their states. Prepare tasks come first, then the task with the longest remaining path."""

    def __init__(self, plan: Plan, wanted: Collection[str], done: Collection[str]) -> None:
        self.plan = plan
        chosen = set(wanted)
        self.wanted = [digest for digest in plan.tasks if digest in chosen]
        self.state = {digest: State.DONE if digest in done else State.WAITING for digest in self.wanted}
        self.skipped = sum(state is State.DONE for state in self.state.values())
        self.failures: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._dependents = _dependents(plan.tasks, self.wanted)
        self._order = self._ranks()
        self._busy: set[str] = set()
        self._parked: dict[str, list[str]] = {}
        self._ready: list[tuple[int, str]] = []
        self._later: list[tuple[float, int, str]] = []
        for digest in self.wanted:
            self._offer(digest)

    def next(self, now: float) -> PlannedTask | None:
        """Return the next task and mark it as running, or None. Two tasks with the same `work` never run at once."""
        self._wake(now)
        while self._ready:
            _, digest = heapq.heappop(self._ready)
            planned = self.plan.tasks[digest]
            if not self._is_startable(digest):
                continue
            if planned.work in self._busy:
                self._parked.setdefault(planned.work, []).append(digest)
                continue
            self.state[digest] = State.RUNNING
            self._busy.add(planned.work)
            return planned
        return None

    def ended(self, digest: str, code: int, now: float) -> Ended:
        """Record the end of an attempt and return its outcome, determined by the exit code."""
        self._release(digest)
        meaning = meaning_of(code)
        if meaning.reaction is Reaction.NEXT:
            self._finish(digest)
            return Ended(Outcome.DONE)
        if code == ExitCode.STOPPED:
            return self._again(digest, Outcome.STOPPED, 0.0, now)
        if meaning.reaction is Reaction.WAIT:
            times = self._held[digest] = self._held.get(digest, 0) + 1
            return self._again(digest, Outcome.HELD, min(2.0**times, MAX_LEASE_DELAY), now)
        failures = self.failures[digest] = self.failures.get(digest, 0) + 1
        if meaning.reaction is Reaction.NEVER or failures >= MAX_UNRECORDED_FAILURES:
            self.state[digest] = State.FAILED
            return Ended(Outcome.FAILED)
        return self._again(digest, Outcome.AGAIN, min(2.0 ** (failures - 1), MAX_BACKOFF), now)

    def started(self, digest: str, from_tokens: int) -> None:
        """Record the start of an attempt. A start beyond all earlier ones proves a new checkpoint and resets the failure count."""
        self._held.pop(digest, None)
        if from_tokens > self._reached.get(digest, 0):
            self._reached[digest] = from_tokens
            self.failures.pop(digest, None)

    def recheck(self, digest: str, done: Collection[str]) -> list[str]:
        """Queue again and return the tasks needed by `digest` whose outputs were quarantined since they were done."""
        lost = [need for need in self.plan.tasks[digest].needs if self.state.get(need) is State.DONE and need not in done]
        for need in lost:
            self.state[need] = State.WAITING
            self._offer(need)
        return lost

    def due(self) -> float | None:
        """Return the time at which the next delayed task may start, or None if no task is delayed."""
        return self._later[0][0] if self._later else None

    def is_over(self) -> bool:
        """Return whether no task is running and none can start."""
        return not self._busy and not self._later and not any(self._is_startable(digest) for _, digest in self._ready)

    def count(self, state: State) -> int:
        return sum(each is state for each in self.state.values())

    def failed(self) -> list[str]:
        return [digest for digest, state in self.state.items() if state is State.FAILED]

    def held_back(self) -> set[str]:
        """Return the tasks that cannot run because a task they need has failed."""
        return _reach(self._dependents, self.failed(), lambda digest: self.state[digest] is State.WAITING)

    def _again(self, digest: str, outcome: Outcome, delay: float, now: float) -> Ended:
        self.state[digest] = State.WAITING
        heapq.heappush(self._later, (now + delay, self._order[digest], digest))
        return Ended(outcome, delay)

    def _finish(self, digest: str) -> None:
        self.state[digest] = State.DONE
        for dependent in self._dependents.get(digest, ()):
            self._offer(dependent)

    def _release(self, digest: str) -> None:
        work = self.plan.tasks[digest].work
        self._busy.discard(work)
        for parked in self._parked.pop(work, []):
            self._offer(parked)

    def _wake(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._offer(heapq.heappop(self._later)[2])

    def _offer(self, digest: str) -> None:
        if self._is_startable(digest):
            heapq.heappush(self._ready, (self._order[digest], digest))

    def _is_startable(self, digest: str) -> bool:
        needs = self.plan.tasks[digest].needs
        return self.state[digest] is State.WAITING and all(self.state.get(need) in (State.DONE, None) for need in needs)

    def _ranks(self) -> dict[str, int]:
        paths = _longest_paths(self.plan, self.wanted, self._dependents)

        def rank(digest: str) -> tuple[bool, float]:
            return self.plan.tasks[digest].kind is not TaskKind.PREPARE, -paths[digest]

        return {digest: place for place, digest in enumerate(sorted(self.wanted, key=rank))}


def held_back(plan: Plan, failed: Iterable[str], finished: Collection[str]) -> set[str]:
    """Return the tasks of a plan that cannot run because a task they need has failed; see `Schedule.held_back`."""
    return _reach(_dependents(plan.tasks, plan.tasks), failed, lambda digest: digest not in finished)


def _reach(dependents: Mapping[str, list[str]], begin: Iterable[str], passes: Callable[[str], bool]) -> set[str]:
    reached: set[str] = set()
    open_ends = list(begin)
    while open_ends:
        for digest in dependents.get(open_ends.pop(), ()):
            if digest not in reached and passes(digest):
                reached.add(digest)
                open_ends.append(digest)
    return reached


def _with_needs(tasks: Mapping[str, PlannedTask], digests: Iterable[str]) -> set[str]:
    reached = set(digests)
    open_ends = list(reached)
    while open_ends:
        for need in tasks[open_ends.pop()].needs:
            if need not in reached:
                reached.add(need)
                open_ends.append(need)
    return reached


def _dependents(tasks: Mapping[str, PlannedTask], wanted: Iterable[str]) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {}
    for digest in wanted:
        for need in tasks[digest].needs:
            dependents.setdefault(need, []).append(digest)
    return dependents


def _longest_paths(plan: Plan, wanted: Collection[str], dependents: Mapping[str, list[str]]) -> dict[str, float]:
    """Return the cost of the most expensive chain that starts at each task. The graph is traversed from its last tasks."""
    paths: dict[str, float] = {}
    open_below = {digest: len(dependents.get(digest, ())) for digest in wanted}
    ends = [digest for digest, below in open_below.items() if not below]
    while ends:
        digest = ends.pop()
        below = max((paths[dependent] for dependent in dependents.get(digest, ())), default=0.0)
        paths[digest] = cost(plan, plan.tasks[digest]) + below
        for need in plan.tasks[digest].needs:
            if need in open_below:
                open_below[need] -= 1
                if not open_below[need]:
                    ends.append(need)
    return paths
