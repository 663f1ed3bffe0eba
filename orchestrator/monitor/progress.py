"""Measure the progress of a run and display it.

`local.run` updates a `Meter` and passes snapshots to a `Listener`: a live view on a terminal, plain lines elsewhere. `status` prints the
same summary.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from orchestrator.contract.events import Progress
from orchestrator.contract.formatting import format_count, format_duration
from orchestrator.contract.plan import CellStage, Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind

if TYPE_CHECKING:
    from rich.console import RenderableType

# Seconds between two summary lines if the output is not a terminal
PLAIN_INTERVAL: Final = 15.0
# Redraws of the live view per second
REFRESH: Final = 4


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A running task. `done` of `total` in `unit`; all 0 before its first progress report."""

    label: str
    kind: TaskKind
    done: int = 0
    total: int = 0
    unit: str = ""
    loss: float | None = None
    per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a run. `done` includes `skipped`, the tasks done before it started; `elapsed` and `eta` in seconds, None if unknown."""

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
    """Receives the progress of a run. `note` prints a permanent line; `show` replaces the previous snapshot."""

    def show(self, snapshot: Snapshot) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class _Gauge:
    """One running task: where this attempt started, and its first and last progress reports."""

    planned: PlannedTask
    cost: float
    begun: bool = False
    from_done: int = 0
    first: tuple[float, int] | None = None
    last: tuple[float, Progress] | None = None

    def attempt_fraction(self) -> float:
        """Fraction of the task that this attempt has done, 0 to 1."""
        if not self.last or self.last[1].total <= self._base():
            return 0.0
        return max(0, self.last[1].done - max(self.from_done, self._base())) / (self.last[1].total - self._base())

    def remaining_fraction(self) -> float:
        """Fraction of the task that is left, 0 to 1."""
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
    """Measures a run from its workers' events: tokens, rates, and remaining time from the cost completed per second."""

    begun_at: float
    open_cost: float
    _gauges: dict[str, _Gauge] = field(default_factory=dict)
    _cost_done: float = 0.0
    _tokens: int = 0
    _first_cost_at: float | None = None

    def given(self, planned: PlannedTask, cost: float, now: float) -> None:
        """Record that a worker was assigned the task."""
        self._gauges[planned.digest] = _Gauge(planned, cost)
        if cost and self._first_cost_at is None:
            self._first_cost_at = now

    def started(self, digest: str, from_tokens: int) -> None:
        """Record that the trainer started the task at `from_tokens`."""
        gauge = self._gauges[digest]
        gauge.begun, gauge.from_done = True, from_tokens

    def progressed(self, progress: Progress, now: float) -> None:
        gauge = self._gauges[progress.digest]
        gauge.first = gauge.first or (now, progress.done)
        gauge.last = (now, progress)

    def ended(self, digest: str, is_done: bool) -> None:
        """Record the end of the attempt. Its fraction counts as measured; the cost of a task found already done is not measured."""
        gauge = self._gauges.pop(digest)
        self._tokens += gauge.tokens()
        if gauge.begun:
            self._cost_done += gauge.cost * (gauge.attempt_fraction() + (gauge.remaining_fraction() if is_done else 0.0))
        if is_done:
            self.open_cost -= gauge.cost

    def running(self) -> tuple[RunningTask, ...]:
        return tuple(gauge.view() for gauge in self._gauges.values())

    def tokens(self) -> int:
        return self._tokens + sum(gauge.tokens() for gauge in self._gauges.values())

    def eta(self, now: float) -> float | None:
        """Return the seconds until the last task ends at the measured cost per second; None before the first measurement."""
        measured = self._cost_done + sum(gauge.cost * gauge.attempt_fraction() for gauge in self._gauges.values())
        if self._first_cost_at is None or now <= self._first_cost_at or measured <= 0:
            return None
        left = self.open_cost - sum(gauge.cost * (1 - gauge.remaining_fraction()) for gauge in self._gauges.values())
        return max(0.0, left) * (now - self._first_cost_at) / measured


class PlainLines:
    """Output for logs and pipes: notes at once, a summary every `interval` seconds."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic, interval: float = PLAIN_INTERVAL) -> None:
        self._out = out
        self._clock = clock
        self._interval = interval
        self._next = 0.0

    def __enter__(self) -> Self:
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
    """Output for a terminal: a summary and one line per running task, redrawn in place below the notes."""

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
    """Return the live view for a terminal, plain lines otherwise."""
    return LiveView() if out.isatty() else PlainLines(out)


def render(snapshot: Snapshot) -> "RenderableType":
    """Return the live view of a snapshot."""
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
    """Return a one-line summary: tasks, tokens, rate, loss, remaining time."""
    parts = [f"{snapshot.done}/{snapshot.total} tasks done", f"{len(snapshot.running)} running", f"{snapshot.waiting} waiting"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed} failed, {snapshot.held_back} blocked")
    if snapshot.tokens:
        parts.append(f"{format_count(snapshot.tokens)} tokens at {format_count(snapshot.tokens_per_second)}/s")
    losses = [f"{task.loss:.3f}" for task in snapshot.running if task.loss is not None]
    if losses:
        parts.append(f"loss {' '.join(losses[:4])}")
    parts.append(f"{format_duration(snapshot.elapsed)} elapsed")
    if snapshot.eta is not None:
        parts.append(f"about {format_duration(snapshot.eta)} left")
    return ", ".join(parts)


def running_line(task: RunningTask) -> str:
    """Return the progress of a running task in one line."""
    if not task.total:
        return "starting"
    parts = [f"{format_count(task.done)}/{format_count(task.total)} {task.unit}"]
    if task.per_second:
        parts.append(f"{format_count(task.per_second)}/s")
    if task.loss is not None:
        parts.append(f"loss {task.loss:.3f}")
    return "  ".join(parts)


def incomplete_cells(plan: Plan, failed: Mapping[str, str], held_back: Collection[str]) -> list[str]:
    """Return one line per incomplete cell: the missing stages or scores, and the failed task that caused it."""
    lines = []
    for cell in plan.cells:
        missing = [text for stage in cell.stages if (text := _missing(stage, failed, held_back))]
        if missing:
            cause = next(digest for stage in cell.stages for digest in _causes(plan, stage, failed, held_back))
            why = (failed[cause].strip().splitlines() or ["no reason given"])[0]
            lines.append(f"{cell.name}: no {', '.join(missing)}; {plan.tasks[cause].label} [{cause[:12]}]: {why}")
    return lines


def _missing(stage: CellStage, failed: Collection[str], held_back: Collection[str]) -> str:
    """`cooldown`, or `cooldown's bpb english, bpb python` if only scores are missing; "" if the stage is complete."""
    if any(digest in failed or digest in held_back for digest in stage.trains):
        return stage.name
    scores = [f"{each.suite} {each.source}".strip() for each in stage.evaluations if each.digest in failed or each.digest in held_back]
    return f"{stage.name}'s {', '.join(scores)}" if scores else ""


def _causes(plan: Plan, stage: CellStage, failed: Mapping[str, str], held_back: Collection[str]) -> Iterator[str]:
    """The failed tasks of a stage, then the failed tasks that block its tasks."""
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
    """Return the first `at_most` names and the number of the others."""
    listed = list(labels)
    more = f" and {len(listed) - at_most} more" if len(listed) > at_most else ""
    return ", ".join(listed[:at_most]) + more
