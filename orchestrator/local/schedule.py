"""Decides which task of a plan a free worker takes next, and what the end of one means.

Pure: no clock, no process, no file. `run` tells it what ended and asks for the next task; times are seconds of any one clock.
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

# Seconds before a failed task starts again: 1, 2, 4, ... up to this.
LONGEST_BACKOFF: Final = 60.0
# Seconds before a task whose lease somebody else holds is asked for again: 2, 4, ... up to this.
LONGEST_WAIT_FOR_A_LEASE: Final = 30.0
# The trainer counts the failures that it can write down (and answers 78). This is for those that it cannot: a full disk, a store away.
ENDS_WITHOUT_A_WORD: Final = 10
# Of a step beside its arithmetic, in parameters: four tiny shapes took 10, 17, 28 and 49 s for N = 60k, 139k, 321k and 734k on one core.
OVERHEAD_PARAMETERS: Final = 110_000
# Tokens that an evaluation is taken to score: it only has to be small beside training.
EVALUATED_TOKENS: Final = 50_000


class State(Enum):
    """Where a task of this run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Outcome(Enum):
    """What the end of an attempt means for its task."""

    DONE = "done"
    AGAIN = "again"
    HELD = "held"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ended:
    """`delay`: seconds until the task may start again, for AGAIN and HELD."""

    outcome: Outcome
    delay: float = 0.0


def wanted_tasks(plan: Plan, only: Collection[str] = ()) -> set[str]:
    """Digests of the tasks of the cells that `only` names (names or patterns like `*-470M-*`) and all they need; of all cells if empty.

    Raises PlanRefused for a name that no cell has.
    """
    if not only:
        return set(plan.tasks)
    wanted: set[str] = set()
    names = [cell.name for cell in plan.cells]
    for pattern in only:
        chosen = [cell for cell in plan.cells if fnmatchcase(cell.name, pattern)]
        if not chosen:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise PlanRefused(f"--only {pattern}: no cell of {plan.study} is called so. Some that are: {', '.join(close)}")
        for cell in chosen:
            for stage in cell.stages:
                wanted.update(stage.trains)
                wanted.update(evaluation.digest for evaluation in stage.evaluations)
    return _with_needs(plan.tasks, wanted)


def cost(plan: Plan, planned: PlannedTask) -> float:
    """How much work a task is, in token-parameters; 0 for prepare, whose size nobody knows yet. Orders tasks and scales the ETA."""
    if planned.kind is TaskKind.PREPARE:
        return 0.0
    shape = plan.shapes.get(planned.size)
    parameters = (shape.n if shape else 0) + OVERHEAD_PARAMETERS
    if isinstance(planned.task, TrainTask):
        return float((planned.task.tokens - planned.from_tokens) * parameters)
    return EVALUATED_TOKENS * parameters / 3


def in_order(plan: Plan, wanted: Collection[str], done: Collection[str]) -> Iterator[PlannedTask]:
    """The tasks that are still to do, in the order in which one worker would do them: for `run --dry-run`."""
    schedule = Schedule(plan, wanted, done)
    while (planned := schedule.next(0.0)) is not None:
        yield planned
        schedule.ended(planned.digest, ExitCode.DONE, 0.0)


class Schedule:
    """The tasks that are wanted, and where each stands. Prepare first, then the task with the longest path behind it."""

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
        """The task to start now, marked as running, or None. Never two at once with the same `work`."""
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
        """What an attempt's exit code means: moves the task on and says how."""
        self._release(digest)
        meaning = meaning_of(code)
        if meaning.reaction is Reaction.NEXT:
            self._finish(digest)
            return Ended(Outcome.DONE)
        if code == ExitCode.STOPPED:
            return self._again(digest, Outcome.STOPPED, 0.0, now)
        if meaning.reaction is Reaction.WAIT:
            times = self._held[digest] = self._held.get(digest, 0) + 1
            return self._again(digest, Outcome.HELD, min(2.0**times, LONGEST_WAIT_FOR_A_LEASE), now)
        failures = self.failures[digest] = self.failures.get(digest, 0) + 1
        if meaning.reaction is Reaction.NEVER or failures >= ENDS_WITHOUT_A_WORD:
            self.state[digest] = State.FAILED
            return Ended(Outcome.FAILED)
        return self._again(digest, Outcome.AGAIN, min(2.0 ** (failures - 1), LONGEST_BACKOFF), now)

    def started(self, digest: str, from_tokens: int) -> None:
        """An attempt began. One that begins further than any before proves a new checkpoint: earlier failures no longer add up."""
        self._held.pop(digest, None)
        if from_tokens > self._reached.get(digest, 0):
            self._reached[digest] = from_tokens
            self.failures.pop(digest, None)

    def recheck(self, digest: str, done: Collection[str]) -> list[str]:
        """Tasks that `digest` needs, were done and are not any more (found damaged and moved aside): they are queued again."""
        lost = [need for need in self.plan.tasks[digest].needs if self.state.get(need) is State.DONE and need not in done]
        for need in lost:
            self.state[need] = State.WAITING
            self._offer(need)
        return lost

    def due(self) -> float | None:
        """When the next delayed task may start, or None when nothing is delayed."""
        return self._later[0][0] if self._later else None

    def is_over(self) -> bool:
        """Nothing runs and nothing can start any more."""
        return not self._busy and not self._later and not any(self._is_startable(digest) for _, digest in self._ready)

    def count(self, state: State) -> int:
        return sum(each is state for each in self.state.values())

    def failed(self) -> list[str]:
        return [digest for digest, state in self.state.items() if state is State.FAILED]

    def held_back(self) -> set[str]:
        """Tasks that cannot run because something that they need has failed."""
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
    """Tasks of a plan that cannot run because something that they need has failed: what `Schedule.held_back` is inside a run."""
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
    """Cost of the most expensive chain that begins with each task. Walks the graph from its ends; a task's needs come after it."""
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
