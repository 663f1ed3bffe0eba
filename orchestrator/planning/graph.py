"""Draw a plan: tasks as boxes from left to right, shared tasks once, with lines to their dependencies.

Called by `plan --graph FILE.svg`. Needs matplotlib, which is an extra.
"""

from collections import defaultdict
from pathlib import Path
from typing import Final

from orchestrator.contract.kinds import KINDS
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import MissingExtra, PlanRefused

MAX_TASKS: Final = 2000


def draw(plan: Plan, file: Path) -> None:
    """Write the graph of `plan` as SVG. Raises MissingExtra without matplotlib, PlanRefused above 2,000 tasks."""
    if len(plan.tasks) > MAX_TASKS:
        raise PlanRefused(f"--graph: {len(plan.tasks):,} tasks are too many to draw; narrow the grid to at most {MAX_TASKS:,}")
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("--graph needs matplotlib: pip install 'scaling-study[graph]'") from None
    matplotlib.use("svg")
    from matplotlib import pyplot

    columns = _columns(plan)
    places = _places(plan, columns)
    width, height = 2.4 * (max(columns.values()) + 1) + 2, 0.22 * (max(y for _, y in places.values()) + 2)
    figure, axes = pyplot.subplots(figsize=(width, max(2.0, height)))
    for digest, task in plan.tasks.items():
        x, y = places[digest]
        for need in task.needs:
            before_x, before_y = places[need]
            if plan.tasks[need].kind != TaskKind.PREPARE or task.kind == TaskKind.PREPARE:
                axes.plot([before_x + 0.9, x], [before_y, y], color="#bbbbbb", linewidth=0.6, zorder=1)
        axes.barh(y, 0.9, left=x, height=0.7, color=KINDS[task.kind].colour, zorder=2)
        axes.text(x + 0.03, y, _caption(task), fontsize=4.5, va="center", color="white", zorder=3)
    axes.set_title(f"{plan.study}: {len(plan.cells):,} cells, {len(plan.tasks):,} tasks", loc="left", fontsize=9)
    axes.invert_yaxis()
    axes.axis("off")
    with matplotlib.rc_context({"svg.hashsalt": plan.study}):
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _columns(plan: Plan) -> dict[str, int]:
    """Return the length of the longest chain of dependencies before each task."""
    found: dict[str, int] = {}

    def column(digest: str) -> int:
        if digest not in found:
            found[digest] = 1 + max((column(need) for need in plan.tasks[digest].needs), default=-1)
        return found[digest]

    for digest in plan.tasks:
        column(digest)
    return found


def _places(plan: Plan, columns: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Return (column, row) of each task, with rows in plan order."""
    rows: dict[int, int] = defaultdict(int)
    places = {}
    for digest, column in columns.items():
        places[digest] = (float(column), float(rows[column]))
        rows[column] += 1
    assert len(places) == len(plan.tasks)
    return places


def _caption(task: PlannedTask) -> str:
    return task.label if len(task.label) <= 46 else f"{task.label[:45]}…"
