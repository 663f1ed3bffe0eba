"""Renders a `StudyView`: the grid as tables, and below it what is running, waiting and missing. Called by `status` and `watch`.

Nothing is computed here. Each square shows its state by colour and by symbol, so that it is readable without colour.
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
from orchestrator.contract.formatting import format_count, format_duration
from orchestrator.monitor.grid_table import FIXED, RecipeGrid, Square, recipe_grids
from orchestrator.monitor.progress import incomplete_cells
from orchestrator.monitor.study_view import ActiveTask, StudyView, target_of
from orchestrator.reconcile.task_states import TaskState

LISTED: Final = 40
"""Lines per list; the rest are counted."""
# Longer than the longest message of a condition
UNBROKEN: Final = 40_000

# State -> symbol, symbol in ASCII, colour, description
_SYMBOLS: Final[dict[TaskState, tuple[str, str, str, str]]] = {
    TaskState.DONE: ("✓", "=", "green", "done"),
    TaskState.RUNNING: ("▶", ">", "bold cyan", "running"),
    TaskState.QUEUED: ("◌", "o", "yellow", "queued"),
    TaskState.AWAITED: ("⇄", "~", "blue", "running in another study"),
    TaskState.STOPPING: ("‖", "|", "magenta", "stopping"),
    TaskState.STALLED: ("!", "!", "bold red", "stalled"),
    TaskState.FAILED: ("✗", "x", "bold red", "failed"),
    TaskState.WAITING: ("·", ".", "dim", "not started"),
}
_PHASES: Final = {"Succeeded": "bold green", "Running": "bold cyan", "Failed": "bold red", "Refused": "bold red", "Held": "bold yellow"}
# Conditions that are a problem when true; the others are a problem when false
_BAD_WHEN_TRUE: Final = ("BudgetExhausted", "Degraded")


def console() -> Console:
    """Return a console of the terminal's width; in a pipe lines are never wrapped. Text is never parsed as markup."""
    found = Console(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = UNBROKEN
    return found


def render_view(view: StudyView, *, only_ascii: bool = False) -> RenderableType:
    """Return the whole view, from the headline to the conditions."""
    return Group(*_parts(view, only_ascii))


def needs_ascii(terminal: Console) -> bool:
    """Whether the terminal cannot show the Unicode symbols."""
    return not terminal.encoding.lower().startswith("utf")


def _parts(view: StudyView, only_ascii: bool) -> Iterator[RenderableType]:
    yield headline(view)
    yield from _gpu_hours(view)
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
        yield Text("Read from the store only; add -n NAMESPACE to read the cluster too.", style="dim")


def headline(view: StudyView) -> Text:
    """Return a line such as `to-code: Running, 4/18 cells, 30/75 tasks done in s3://..., about 12 min left`."""
    where = f" in namespace {view.namespace}" if view.namespace else ""
    text = Text.assemble((view.name, "bold"), f"{where}: ", (view.phase, _PHASES.get(view.phase, "bold")))
    counts = summary(view)
    return text.append(f", {counts}" if counts else "")


def summary(view: StudyView) -> str:
    """Return the progress in one line, without name and phase."""
    if view.plan is not None:
        done = sum(cell_state.state == TaskState.DONE for cell_state in view.cells)
        parts = [f"{done}/{len(view.cells)} cells", f"{view.counts[TaskState.DONE]}/{len(view.tasks)} tasks done in {view.store}"]
        if view.seconds_left is not None:
            parts.append(f"about {format_duration(view.seconds_left)} left")
        return ", ".join(parts)
    counts = status_of(view.body or {}).get("counts") or {}
    if not counts:
        return ""
    return f"{counts.get('cellsDone', 0)}/{counts.get('cells', 0)} cells, {counts.get('tasksDone', 0)}/{counts.get('tasks', 0)} tasks done"


def _gpu_hours(view: StudyView) -> Iterator[Text]:
    written = status_of(view.body or {}).get("gpuHours") or {}
    used = str(written.get("used") or f"{view.gpu_seconds / 3600:.2f}")
    budget = str(written.get("budget") or view.budget)
    if budget or float(used):
        yield Text(f"GPU-hours: {used} used" + (f" of {budget}" if budget else ", without a budget"))


def _table(grid: RecipeGrid, only_ascii: bool) -> Table:
    title = f"\n{grid.recipe}" + (", % of code" if grid.code_percents != (FIXED,) else "")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.ASCII if only_ascii else box.ROUNDED)
    table.add_column("size", no_wrap=True)
    for percent in grid.code_percents:
        table.add_column("fixed by the recipe" if percent == FIXED else f"{percent} %")
    for size in grid.sizes:
        row = [grid.squares.get((size, percent)) for percent in grid.code_percents]
        table.add_row(size, *(_square(square, only_ascii) if square else Text("-", style="dim") for square in row))
    return table


def _square(square: Square, only_ascii: bool) -> Text:
    symbol, ascii_symbol, colour, _ = _SYMBOLS[square.state]
    parts = [ascii_symbol if only_ascii else symbol, f"{square.done}/{square.total}"]
    if square.state != TaskState.DONE and square.progress > 0:
        # a square that is not done never shows 100 %
        parts.append(f"{min(99, int(square.progress * 100)):2d}%")
    if square.seconds_left is not None:
        parts.append(f"~{short(square.seconds_left)}")
    return Text(" ".join(parts), style=colour)


def short(seconds: float) -> str:
    """Return a short duration for a square: 45s, 12m, 3h10m, 2d4h."""
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
    """Return the meaning of the symbols in use."""
    states = {square.state for grid in grids for square in grid.squares.values()}
    parts: list[str | tuple[str, str]] = []
    for state, (symbol, ascii_symbol, colour, description) in _SYMBOLS.items():
        if state in states:
            parts += [(f"{ascii_symbol if only_ascii else symbol} {description}", colour), "   "]
    return Text.assemble(*parts, ("seeds done/total, progress, time left", "dim"))


def sections(view: StudyView) -> Iterator[tuple[str, list[str]]]:
    """Yield titles and lines for the running, waiting, failed and damaged tasks, and why the progress is unknown."""
    if view.active_tasks:
        yield "running:", _capped([work_line(work, view.now) for work in view.active_tasks])
    elif view.plan is None and view.pods:
        pods = [pod for pod in view.pods if not pod.is_over]
        yield "pods:", _capped([f"{pod.name}: {pod.phase}{f', {pod.reason}' if pod.reason else ''}" for pod in pods])
    if view.waits:
        yield "submitted but waiting:", _capped([f"{number} x {reason}" for reason, number in view.waits.items()])
    if lost := missing(view):
        yield "failed; fix and rerun:", _capped(lost)
    if damaged := damaged_tasks(view):
        yield "not done, because the record is damaged; the next run repeats these tasks:", _capped(damaged)
    if view.trouble and view.phase != "Refused":
        yield "progress and tasks are unknown here:" if view.cells else "no grid:", [view.trouble]


def missing(view: StudyView) -> list[str]:
    """Return a line for every incomplete cell that needs the user to act."""
    if view.plan is not None:
        return incomplete_cells(view.plan, view.failed, view.held_back) if view.failed else []
    return [f"{cell['name']}: {cell.get('reason', '')}" for cell in status_of(view.body or {}).get("failedCells") or ()]


def damaged_tasks(view: StudyView) -> list[str]:
    """Return a line for every task that was done and has lost its record."""
    tasks = view.plan.tasks if view.plan is not None else {}
    return [f"{tasks[digest].kind} {tasks[digest].label}: {why}" for digest, why in view.damaged.items() if digest in tasks]


def work_line(work: ActiveTask, now: datetime) -> str:
    """Return a line such as `train scratch/60M/c25/s1 pretrain: at 12.3k of 64k tokens, pod ss-... for 3 min 20 s, last step 5 s ago`."""
    parts = []
    lease, target = work.lease, target_of(work.task)
    if lease is not None and lease.tokens:
        parts.append(f"at {format_count(lease.tokens)}" + (f" of {format_count(target)} tokens" if target else ""))
    where = f"pod {work.pod}" if work.pod else (f"process {lease.pid} on {lease.host}" if lease is not None else "")
    if lease is not None and lease.ended is None:
        parts.append(f"{where} for {format_duration((now - lease.start).total_seconds())}")
        has_stepped = lease.tokens > lease.from_tokens
        parts.append(f"last step {format_duration(max(0.0, (now - lease.renewed).total_seconds()))} ago" if has_stepped else "no step yet")
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
        is_alarming = is_bad and entry["type"] in (*_BAD_WHEN_TRUE, "Accepted", "Planned")
        is_old = condition_of(view.body, entry["type"]) is None
        message = f"{entry['message']}{' (before its last edit)' if is_old else ''}"
        style = "red" if is_alarming else ("dim" if is_old else "")
        table.add_row("", entry["type"], entry["status"], entry["reason"], Text(message), style=style)
    if not table.row_count:
        table.add_row("", "none yet: no controller has reconciled it")
    return table
