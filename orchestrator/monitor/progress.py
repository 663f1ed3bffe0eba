"""Turns the states of a run into what a person sees.

`local.run` feeds a `Meter` and shows its snapshots to a `Listener`: a live view on a terminal, plain lines elsewhere. `status` prints the
same summary. Nothing here decides anything.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from orchestrator.contract.events import Progress
from orchestrator.contract.formatting import amount, duration
from orchestrator.contract.plan import CellStage, Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind

if TYPE_CHECKING:
    from rich.console import RenderableType

# Seconds between two summary lines where nobody watches a screen.
PLAIN_INTERVAL: Final = 15.0
# Redraws of the live view a second.
REFRESH: Final = 4


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task at work. `done` of `total` in `unit`; all 0 before its first progress."""

    label: str
    kind: TaskKind
    done: int = 0
    total: int = 0
    unit: str = ""
    loss: float | None = None
    per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment. `skipped` were done before it began and are in `done`; `eta` in seconds, None while nobody can know."""

    total: int
    done: int
    skipped: int
    waiting: int
    failed: int
    held_back: int
    running: tuple[RunningTask, ...]
    tokens: int
    tokens_per_second: float
    elapsed: float
    eta: float | None


class Listener(Protocol):
    """Who watches a run. `note` is a line that stays, `show` replaces what was shown before."""

    def show(self, snapshot: Snapshot) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class _Gauge:
    """One running task: where this attempt began, and the first and last progress that it told."""

    planned: PlannedTask
    cost: float
    begun: bool = False
    from_done: int = 0
    first: tuple[float, int] | None = None
    last: tuple[float, Progress] | None = None

    def share(self) -> float:
        """How much of the task this attempt has done, 0 to 1."""
        if not self.last or self.last[1].total <= self._base():
            return 0.0
        return max(0, self.last[1].done - max(self.from_done, self._base())) / (self.last[1].total - self._base())

    def rest(self) -> float:
        """How much of the task is still to do, 0 to 1."""
        if not self.last or self.last[1].total <= self._base():
            return 1.0
        return 1 - (self.last[1].done - self._base()) / (self.last[1].total - self._base())

    def tokens(self) -> int:
        return max(0, self.last[1].done - self.from_done) if self.last and self.last[1].unit == "tokens" else 0

    def per_second(self) -> float:
        if not self.first or not self.last or self.last[0] <= self.first[0]:
            return 0.0
        return (self.last[1].done - self.first[1]) / (self.last[0] - self.first[0])

    def view(self) -> RunningTask:
        if not self.last:
            return RunningTask(self.planned.label, self.planned.kind)
        progress = self.last[1]
        return RunningTask(
            self.planned.label, self.planned.kind, progress.done, progress.total, progress.unit, progress.loss, self.per_second()
        )

    def _base(self) -> int:
        return self.planned.from_tokens if self.planned.kind is TaskKind.TRAIN else 0


@dataclass
class Meter:
    """Measures a run from its workers' events: tokens, rates, and the time that is left by cost done a second."""

    begun_at: float
    open_cost: float
    _gauges: dict[str, _Gauge] = field(default_factory=dict)
    _cost_done: float = 0.0
    _tokens: int = 0
    _first_cost_at: float | None = None

    def given(self, planned: PlannedTask, cost: float, now: float) -> None:
        """A worker got the task."""
        self._gauges[planned.digest] = _Gauge(planned, cost)
        if cost and self._first_cost_at is None:
            self._first_cost_at = now

    def started(self, digest: str, from_tokens: int) -> None:
        """The trainer has taken it up, at `from_tokens`."""
        gauge = self._gauges[digest]
        gauge.begun, gauge.from_done = True, from_tokens

    def progressed(self, progress: Progress, now: float) -> None:
        gauge = self._gauges[progress.digest]
        gauge.first = gauge.first or (now, progress.done)
        gauge.last = (now, progress)

    def ended(self, digest: str, is_done: bool) -> None:
        """The attempt is over. Its share counts as measured; a task that had been done before counts as neither done nor left."""
        gauge = self._gauges.pop(digest)
        self._tokens += gauge.tokens()
        if gauge.begun:
            self._cost_done += gauge.cost * (gauge.share() + (gauge.rest() if is_done else 0.0))
        if is_done:
            self.open_cost -= gauge.cost

    def running(self) -> tuple[RunningTask, ...]:
        return tuple(gauge.view() for gauge in self._gauges.values())

    def tokens(self) -> int:
        return self._tokens + sum(gauge.tokens() for gauge in self._gauges.values())

    def eta(self, now: float) -> float | None:
        """Seconds until the last task ends, if the rest goes as fast as what has been measured."""
        measured = self._cost_done + sum(gauge.cost * gauge.share() for gauge in self._gauges.values())
        if self._first_cost_at is None or now <= self._first_cost_at or measured <= 0:
            return None
        left = self.open_cost - sum(gauge.cost * (1 - gauge.rest()) for gauge in self._gauges.values())
        return max(0.0, left) * (now - self._first_cost_at) / measured


class PlainLines:
    """For logs and pipes: notes as they come, a summary now and then."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic, interval: float = PLAIN_INTERVAL) -> None:
        self._out = out
        self._clock = clock
        self._interval = interval
        self._next = 0.0

    def __enter__(self) -> "PlainLines":
        self._next = self._clock() + self._interval
        return self

    def __exit__(self, *_exception: object) -> None:
        self._out.flush()

    def show(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + self._interval
            self.note(summary(snapshot))

    def note(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class LiveView:
    """For a terminal: a summary and one line a running task, redrawn in place; notes scroll away above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(emoji=False), refresh_per_second=REFRESH, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(render(snapshot))

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)


def choose_view(out: TextIO = sys.stdout) -> AbstractContextManager[PlainLines | LiveView]:
    """The live view on a terminal, else plain lines."""
    return LiveView() if out.isatty() else PlainLines(out)


def render(snapshot: Snapshot) -> "RenderableType":
    """The live view's picture of a snapshot."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_row(Text("all", style="bold"), ProgressBar(max(1, snapshot.total), snapshot.done, width=30), Text(summary(snapshot)))
    for task in snapshot.running:
        table.add_row(Text(f"{task.kind} {task.label}"), ProgressBar(max(1, task.total), task.done, width=30), Text(running_line(task)))
    return Group(table)


def summary(snapshot: Snapshot) -> str:
    """A run in one line: tasks, tokens, rate, loss, time left."""
    parts = [f"{snapshot.done}/{snapshot.total} tasks done", f"{len(snapshot.running)} running", f"{snapshot.waiting} waiting"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed} failed, {snapshot.held_back} held back")
    if snapshot.tokens:
        parts.append(f"{amount(snapshot.tokens)} tokens at {amount(snapshot.tokens_per_second)}/s")
    losses = [f"{task.loss:.3f}" for task in snapshot.running if task.loss is not None]
    if losses:
        parts.append(f"loss {' '.join(losses[:4])}")
    parts.append(f"{duration(snapshot.elapsed)} gone")
    if snapshot.eta is not None:
        parts.append(f"about {duration(snapshot.eta)} left")
    return ", ".join(parts)


def running_line(task: RunningTask) -> str:
    """How far a running task is."""
    if not task.total:
        return "starting"
    parts = [f"{amount(task.done)}/{amount(task.total)} {task.unit}"]
    if task.per_second:
        parts.append(f"{amount(task.per_second)}/s")
    if task.loss is not None:
        parts.append(f"loss {task.loss:.3f}")
    return "  ".join(parts)


def holes(plan: Plan, failed: Mapping[str, str], held_back: Collection[str]) -> list[str]:
    """The cells that are not whole, a line each: what of which stages is missing, and the failed task that is to blame."""
    lines = []
    for cell in plan.cells:
        missing = [told for stage in cell.stages if (told := _missing(stage, failed, held_back))]
        if missing:
            blamed = next(digest for stage in cell.stages for digest in _blamed(plan, stage, failed, held_back))
            why = (failed[blamed].strip().splitlines() or ["no reason given"])[0]
            lines.append(f"{cell.name}: no {', '.join(missing)}; {plan.tasks[blamed].label} [{blamed[:12]}]: {why}")
    return lines


def _missing(stage: CellStage, failed: Collection[str], held_back: Collection[str]) -> str:
    """`cooldown`, or `cooldown's bpb english, bpb python` when the model is there and its scores are not; "" when all is there."""
    if any(digest in failed or digest in held_back for digest in stage.trains):
        return stage.name
    scores = [f"{each.suite} {each.source}".strip() for each in stage.evaluations if each.digest in failed or each.digest in held_back]
    return f"{stage.name}'s {', '.join(scores)}" if scores else ""


def _blamed(plan: Plan, stage: CellStage, failed: Mapping[str, str], held_back: Collection[str]) -> Iterator[str]:
    """The failed tasks of a stage, and those that hold its tasks back."""
    tasks = stage.tasks
    yield from (digest for digest in tasks if digest in failed)
    open_ends = [digest for digest in tasks if digest in held_back]
    seen = set(open_ends)
    while open_ends:
        for need in plan.tasks[open_ends.pop()].needs:
            if need in failed:
                yield need
            elif need not in seen:
                seen.add(need)
                open_ends.append(need)


def names(labels: Iterable[str], at_most: int = 10) -> str:
    """The first few of many names, and how many more there are."""
    listed = list(labels)
    more = f" and {len(listed) - at_most} more" if len(listed) > at_most else ""
    return ", ".join(listed[:at_most]) + more
