"""Training loss over tokens, as a figure: what the metrics in the store say, thinned to what an eye can see.

`report` asks for it. Only what records stand behind is read, and of every recipe, size and code percent the first seed: all seeds together
would hide each other. A trajectory's tokens are put behind those of its ancestors, so a cooldown leaves the line where it branched off.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Final

from analysis.figures.panels import CODE_LEGEND, Figure, Line, Panel, Strip
from analysis.tables.frame import Records
from orchestrator.contract.plan import Cell, Plan
from orchestrator.contract.tasks import FromState, TrainTask, Trajectory
from orchestrator.contract.vocabulary import LOSS, TaskKind
from orchestrator.errors import Damaged
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.metrics import series

NAME: Final = "training-loss"

POINTS: Final = 60
"""On the line of a cell, each the mean of what was trained between it and the next."""

SKIPPED: Final = 0.03
"""Share of a cell's tokens that is not drawn: the fall from the first steps would flatten all the rest."""

_CAPTION: Final = (
    "Training loss in nats a token, one seed a line, each point the mean of a sixtieth of the tokens; the first 3 % are left out. "
    "It is measured on each model's own mixture, so lines of different code percents do not rank models."
)

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The part of a trajectory that a cell's recorded tasks cover. `whole`: tokens that the cell reads in all its stages."""

    work: str
    tokens: int
    offset: int
    whole: int


def loss_figure(store: Store, plan: Plan, records: Records) -> Figure | None:
    """Loss against tokens, a panel a size, or None when no metrics are there."""
    first = _first_seeds(plan)
    trajectories = {task.work: task.task.trajectory for task in plan.tasks.values() if isinstance(task.task, TrainTask)}
    wanted = {cell.name: _wanted(plan, cell, records, trajectories) for cell in first}
    curves = _read_all(store, {piece for pieces in wanted.values() for piece in pieces})
    strips = tuple(_strips(plan, first, {name: [curves[p] for p in pieces] for name, pieces in wanted.items()}))
    return Figure(NAME, "Training loss", _CAPTION, strips) if strips else None


def _first_seeds(plan: Plan) -> list[Cell]:
    first: dict[tuple[str, str, str | None], Cell] = {}
    for cell in sorted(plan.cells, key=lambda cell: (cell.init_seed, cell.data_seed)):
        first.setdefault((cell.recipe, cell.size, cell.code_percent), cell)
    chosen = {cell.name for cell in first.values()}
    return [cell for cell in plan.cells if cell.name in chosen]


def _wanted(plan: Plan, cell: Cell, records: Records, trajectories: dict[str, Trajectory]) -> list[_Wanted]:
    reached: dict[str, int] = {}
    for digest in (digest for stage in cell.stages for digest in stage.trains if digest in records):
        task = plan.tasks[digest].task
        if isinstance(task, TrainTask):
            work = plan.tasks[digest].work
            reached[work] = max(task.tokens, reached.get(work, 0))
    whole = cell.stages[-1].chain_tokens
    return [_Wanted(work, tokens, _offset(trajectories, work), whole) for work, tokens in reached.items()]


def _offset(trajectories: dict[str, Trajectory], work: str) -> int:
    """Tokens that the ancestors of `work` read before it began."""
    start = trajectories[work].start
    return _offset(trajectories, start.trajectory) + start.tokens if isinstance(start, FromState) else 0


def _read_all(store: Store, wanted: set[_Wanted]) -> dict[_Wanted, Curve]:
    ordered = sorted(wanted, key=lambda piece: (piece.work, piece.tokens))
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(ordered, pool.map(lambda piece: _read(store, piece), ordered), strict=True))


def _read(store: Store, piece: _Wanted) -> Curve:
    try:
        table = series(store, work_root(TaskKind.TRAIN, piece.work), piece.tokens)
    except Damaged:
        # `store verify` reports it; a missing curve must not prevent the report
        return ()
    rows = zip(table["tokens"].to_pylist(), table["name"].to_pylist(), table["value"].to_pylist(), strict=True)
    # a step that was skipped has a loss that is no number
    points = sorted((piece.offset + tokens, value) for tokens, name, value in rows if name == LOSS and isfinite(value))
    return thinned([point for point in points if point[0] >= SKIPPED * piece.whole], piece.whole / POINTS)


def thinned(points: Sequence[tuple[float, float]], width: float) -> Curve:
    """Means of runs of neighbours, each run less than `width` long; a short last one goes to the run before it."""
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if not runs or point[0] - runs[-1][0][0] >= width:
            runs.append([])
        runs[-1].append(point)
    if len(runs) > 1 and 2 * len(runs[-1]) < len(runs[-2]):
        rest = runs.pop()
        runs[-1] += rest
    return tuple((fmean(x for x, _ in run), fmean(y for _, y in run)) for run in runs)


def _strips(plan: Plan, cells: Sequence[Cell], curves: dict[str, list[Curve]]) -> Iterator[Strip]:
    grid = sorted({float(cell.code_percent) for cell in plan.cells if cell.code_percent is not None})
    lines = {cell.name: _lines(cell, grid, curves[cell.name]) for cell in cells}
    heights = [y for own in lines.values() for line in own for _, y in line.curve]
    if not heights:
        return
    room = (max(heights) - min(heights)) * 0.05 or 0.05
    limits = (min(heights) - room, max(heights) + room)
    sizes = sorted(plan.shapes, key=lambda size: (plan.shapes[size].n, size))
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        panels = []
        for size in sizes:
            own = tuple(line for cell in cells if (cell.recipe, cell.size) == (recipe, size) for line in lines[cell.name])
            if own:
                panels.append(Panel(size, "tokens read", "loss, nats per token", False, (), limits, "code", len(grid), CODE_LEGEND, own))
        if panels:
            yield Strip(recipe, tuple(panels))


def _lines(cell: Cell, grid: list[float], curves: list[Curve]) -> list[Line]:
    code = None if cell.code_percent is None else float(cell.code_percent)
    rank = None if code is None else grid.index(code)
    ends = max((curve[-1][0] for curve in curves if curve), default=0.0)
    label = "" if code is None else f"{code:g} %"
    return [Line(label if curve[-1][0] == ends else "", rank, (), curve) for curve in curves if curve]
