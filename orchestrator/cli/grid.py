"""Draws a `StudyView`: the grid as tables, and below it what runs, what waits, what is missing and why. Called by `status` and `watch`.

Nothing is computed here. A square tells its state by colour and by a sign, so that it is read without colours too.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.cluster.study_object import condition_of, status_of
from orchestrator.contract.formatting import amount, duration
from orchestrator.monitor.grid_table import FIXED, RecipeGrid, Square, recipe_grids
from orchestrator.monitor.progress import holes
from orchestrator.monitor.study_view import AtWork, StudyView, target_of
from orchestrator.reconcile.observe import TaskState

LISTED: Final = 40
"""Lines of one list; the rest are counted."""
# Longer than the longest message of a condition
UNBROKEN: Final = 40_000

# State -> sign, the same where a terminal knows ASCII alone, colour, word
_SIGNS: Final[dict[TaskState, tuple[str, str, str, str]]] = {
    TaskState.DONE: ("✓", "=", "green", "done"),
    TaskState.RUNNING: ("▶", ">", "bold cyan", "running"),
    TaskState.QUEUED: ("◌", "o", "yellow", "submitted, waits for its turn"),
    TaskState.AWAITED: ("⇄", "~", "blue", "somebody else works on it"),
    TaskState.STOPPING: ("‖", "|", "magenta", "stopping"),
    TaskState.STALLED: ("!", "!", "bold red", "makes no step"),
    TaskState.FAILED: ("✗", "x", "bold red", "failed"),
    TaskState.WAITING: ("·", ".", "dim", "not begun, or waits for what it needs"),
}
_PHASES: Final = {"Succeeded": "bold green", "Running": "bold cyan", "Failed": "bold red", "Refused": "bold red", "Held": "bold yellow"}
# Conditions that are bad news when they hold; the others are when they do not
_BAD_WHEN_TRUE: Final = ("BudgetExhausted", "Degraded")


def console() -> Console:
    """For a terminal as wide as it is; a pipe has no width, and no line is broken. Words of a study or a cluster are no markup."""
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = UNBROKEN
    return made


def drawn(view: StudyView, *, only_ascii: bool = False) -> RenderableType:
    """Everything, from the headline to the conditions."""
    return Group(*_parts(view, only_ascii))


def speaks_ascii(shown_on: Console) -> bool:
    """Whether the signs would not arrive."""
    return not shown_on.encoding.lower().startswith("utf")


def _parts(view: StudyView, only_ascii: bool) -> Iterator[RenderableType]:
    yield headline(view)
    yield from _money(view)
    grids = recipe_grids(view.cells)
    for grid in grids:
        yield _table(grid, only_ascii)
    if grids:
        yield _legend(grids, only_ascii)
    for title, lines in sections(view):
        yield Text(title, style="bold")
        yield from (Padding(Text(line), (0, 0, 0, 2), expand=False) for line in lines)
    if view.body is not None:
        yield Text("conditions:", style="bold")
        yield _conditions(view)
    elif "://" in view.store and view.phase != "Succeeded":
        yield Text("This is what the store tells; -n NAMESPACE shows what a cluster says too.", style="dim")


def headline(view: StudyView) -> Text:
    """`to-code: Running, 4/18 cells, 30/75 tasks done in s3://..., about 12 min left`."""
    where = f" in namespace {view.namespace}" if view.namespace else ""
    text = Text.assemble((view.name, "bold"), f"{where}: ", (view.phase, _PHASES.get(view.phase, "bold")))
    counts = summary(view)
    return text.append(f", {counts}" if counts else "")


def summary(view: StudyView) -> str:
    """How far it is, in one line without its name and phase."""
    if view.plan is not None:
        done = sum(standing.state == TaskState.DONE for standing in view.cells)
        parts = [f"{done}/{len(view.cells)} cells", f"{view.counts[TaskState.DONE]}/{len(view.tasks)} tasks done in {view.store}"]
        if view.seconds_left is not None:
            parts.append(f"about {duration(view.seconds_left)} left")
        return ", ".join(parts)
    counts = status_of(view.body or {}).get("counts") or {}
    if not counts:
        return ""
    return f"{counts.get('cellsDone', 0)}/{counts.get('cells', 0)} cells, {counts.get('tasksDone', 0)}/{counts.get('tasks', 0)} tasks done"


def _money(view: StudyView) -> Iterator[Text]:
    told = status_of(view.body or {}).get("gpuHours") or {}
    used = str(told.get("used") or f"{view.gpu_seconds / 3600:.2f}")
    budget = str(told.get("budget") or view.budget)
    if budget or float(used):
        yield Text(f"GPU-hours: {used} used" + (f" of {budget}" if budget else ", without a budget"))


def _table(grid: RecipeGrid, only_ascii: bool) -> Table:
    title = f"\n{grid.recipe}" + (", % of code" if grid.code_percents != (FIXED,) else "")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.ASCII if only_ascii else box.ROUNDED)
    table.add_column("size", no_wrap=True)
    for percent in grid.code_percents:
        table.add_column("as the recipe says" if percent == FIXED else f"{percent} %")
    for size in grid.sizes:
        row = [grid.squares.get((size, percent)) for percent in grid.code_percents]
        table.add_row(size, *(_square(square, only_ascii) if square else Text("-", style="dim") for square in row))
    return table


def _square(square: Square, only_ascii: bool) -> Text:
    sign, plain, colour, _ = _SIGNS[square.state]
    parts = [plain if only_ascii else sign, f"{square.done}/{square.total}"]
    if square.state != TaskState.DONE and square.progress > 0:
        # never 100 % of what is not done
        parts.append(f"{min(99, int(square.progress * 100)):2d}%")
    if square.seconds_left is not None:
        parts.append(f"~{short(square.seconds_left)}")
    return Text(" ".join(parts), style=colour)


def short(seconds: float) -> str:
    """A time in two figures or so, for a square: 45s, 12m, 3h10m, 2d4h."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes}m"
    if minutes < 2880:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60}h"


def _legend(grids: tuple[RecipeGrid, ...], only_ascii: bool) -> Text:
    """What the signs that are there mean."""
    states = {square.state for grid in grids for square in grid.squares.values()}
    parts: list[str | tuple[str, str]] = []
    for state, (sign, plain, colour, word) in _SIGNS.items():
        if state in states:
            parts += [(f"{plain if only_ascii else sign} {word}", colour), "   "]
    return Text.assemble(*parts, ("seeds done of all, share done, time left", "dim"))


def sections(view: StudyView) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines of what runs, waits, fails, and of what cannot be seen from here."""
    if view.at_work:
        yield "at work:", _capped([work_line(work, view.now) for work in view.at_work])
    elif view.plan is None and view.pods:
        pods = [pod for pod in view.pods if not pod.is_over]
        yield "pods:", _capped([f"{pod.name}: {pod.phase}{f', {pod.reason}' if pod.reason else ''}" for pod in pods])
    if view.waits:
        yield "waiting, though submitted:", _capped([f"{number} x {reason}" for reason, number in view.waits.items()])
    if lost := missing(view):
        yield "missing, until somebody mends it and runs it again:", _capped(lost)
    if view.trouble and view.phase != "Refused":
        yield "progress and tasks are not known here:" if view.cells else "no grid:", [view.trouble]


def missing(view: StudyView) -> list[str]:
    """A line for every cell that is not whole and will not be by itself."""
    if view.plan is not None:
        return holes(view.plan, view.failed, view.held_back) if view.failed else []
    return [f"{cell['name']}: {cell.get('reason', '')}" for cell in status_of(view.body or {}).get("failedCells") or ()]


def work_line(work: AtWork, now: datetime) -> str:
    """`train scratch/60M/c25/s1 pretrain: at 12.3k of 64k tokens, pod ss-... for 3 min 20 s, last step 5 s ago`."""
    parts = []
    lease, target = work.lease, target_of(work.task)
    if lease is not None and lease.tokens:
        parts.append(f"at {amount(lease.tokens)}" + (f" of {amount(target)} tokens" if target else ""))
    where = f"pod {work.pod}" if work.pod else (f"process {lease.pid} on {lease.host}" if lease is not None else "")
    if lease is not None and lease.ended is None:
        parts.append(f"{where} for {duration((now - lease.start).total_seconds())}")
        has_stepped = lease.tokens > lease.from_tokens
        parts.append(f"last step {duration(max(0.0, (now - lease.renewed).total_seconds()))} ago" if has_stepped else "no step yet")
    else:
        parts.append(f"{where}, starting")
    state = "" if work.state == TaskState.RUNNING else f" ({work.state}{f': {work.reason}' if work.reason else ''})"
    return f"{work.task.kind} {work.task.label}{state}: {', '.join(parts)}"


def _capped(lines: list[str]) -> list[str]:
    return lines if len(lines) <= LISTED else [*lines[:LISTED], f"... and {len(lines) - LISTED} more"]


def _conditions(view: StudyView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    assert view.body is not None
    for entry in status_of(view.body).get("conditions") or ():
        is_bad = (entry["status"] == "True") == (entry["type"] in _BAD_WHEN_TRUE)
        news = is_bad and entry["type"] in (*_BAD_WHEN_TRUE, "Accepted", "Planned")
        is_old = condition_of(view.body, entry["type"]) is None
        message = f"{entry['message']}{' (before its last edit)' if is_old else ''}"
        style = "red" if news else ("dim" if is_old else "")
        table.add_row("", entry["type"], entry["status"], entry["reason"], Text(message), style=style)
    if not table.row_count:
        table.add_row("", "none yet: no controller has looked at it")
    return table
