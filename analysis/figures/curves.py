"""The training-loss figure: loss against tokens, read from the metrics in the store and downsampled for plotting.

`report` calls it. It reads only metrics that a record covers, and only the first seed of each recipe, size and code percent, because the
curves of all seeds would overlap. A curve is shifted by the tokens of its trajectory's ancestors, so a cooldown starts where it branches
off.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Final

from analysis.figures.panels import CODE_LEGEND, Figure, FigureRow, Line, Panel
from analysis.tables.frame import Records
from orchestrator.contract.plan import Cell, Plan
from orchestrator.contract.tasks import FromState, TrainTask, Trajectory
from orchestrator.contract.vocabulary import LOSS, TaskKind
from orchestrator.errors import Damaged
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.metrics import series

FIGURE_NAME: Final = "training-loss"

POINTS_PER_CELL: Final = 60
"""Number of points over all tokens of a cell; each is the mean of the steps in its interval."""

SKIPPED_FRACTION: Final = 0.03
"""Fraction of a cell's tokens left out at the start, where the steep fall of the loss would compress the rest of the y axis."""

_CAPTION: Final = (
    "Training loss in nats per token for the first seed. Each point is the mean over a sixtieth of the tokens; the first 3 % are omitted. "
    "The loss is measured on each model's own mixture, so curves of different code percents do not rank the models."
)

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Segment:
    """The part of a trajectory that the recorded tasks of a cell cover.

    `tokens`: length of the part; `offset`: tokens of the trajectory's ancestors; `cell_tokens`: tokens of the cell over all its stages.
    """

    work: str
    tokens: int
    offset: int
    cell_tokens: int


def loss_figure(store: Store, plan: Plan, records: Records) -> Figure | None:
    """Return loss against tokens with one panel per size, or None if the store holds no metrics."""
    cells = _first_seeds(plan)
    trajectories = {task.work: task.task.trajectory for task in plan.tasks.values() if isinstance(task.task, TrainTask)}
    segments = {cell.name: _segments(plan, cell, records, trajectories) for cell in cells}
    curves = _read_all(store, {segment for own in segments.values() for segment in own})
    rows = tuple(_rows(plan, cells, {name: [curves[segment] for segment in own] for name, own in segments.items()}))
    return Figure(FIGURE_NAME, "Training loss", _CAPTION, rows) if rows else None


def _first_seeds(plan: Plan) -> list[Cell]:
    first: dict[tuple[str, str, str | None], Cell] = {}
    for cell in sorted(plan.cells, key=lambda cell: (cell.init_seed, cell.data_seed)):
        first.setdefault((cell.recipe, cell.size, cell.code_percent), cell)
    chosen = {cell.name for cell in first.values()}
    return [cell for cell in plan.cells if cell.name in chosen]


def _segments(plan: Plan, cell: Cell, records: Records, trajectories: dict[str, Trajectory]) -> list[_Segment]:
    reached: dict[str, int] = {}
    for digest in (digest for stage in cell.stages for digest in stage.trains if digest in records):
        task = plan.tasks[digest].task
        if isinstance(task, TrainTask):
            work = plan.tasks[digest].work
            reached[work] = max(task.tokens, reached.get(work, 0))
    cell_tokens = cell.stages[-1].chain_tokens
    return [_Segment(work, tokens, _offset(trajectories, work), cell_tokens) for work, tokens in reached.items()]


def _offset(trajectories: dict[str, Trajectory], work: str) -> int:
    """Return the tokens that the ancestors of `work` read before it started."""
    start = trajectories[work].start
    return _offset(trajectories, start.trajectory) + start.tokens if isinstance(start, FromState) else 0


def _read_all(store: Store, segments: set[_Segment]) -> dict[_Segment, Curve]:
    ordered = sorted(segments, key=lambda segment: (segment.work, segment.tokens))
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(ordered, pool.map(lambda segment: _read(store, segment), ordered), strict=True))


def _read(store: Store, segment: _Segment) -> Curve:
    try:
        table = series(store, work_root(TaskKind.TRAIN, segment.work), segment.tokens)
    except Damaged:
        # `store verify` reports damaged metrics; the report is written without the curve
        return ()
    rows = zip(table["tokens"].to_pylist(), table["name"].to_pylist(), table["value"].to_pylist(), strict=True)
    # skipped steps have a NaN or infinite loss
    points = sorted((segment.offset + tokens, value) for tokens, name, value in rows if name == LOSS and isfinite(value))
    start = SKIPPED_FRACTION * segment.cell_tokens
    return downsample([point for point in points if point[0] >= start], segment.cell_tokens / POINTS_PER_CELL)


def downsample(points: Sequence[tuple[float, float]], width: float) -> Curve:
    """Return the means of consecutive groups of points, each group spanning less than `width` in x.

    A last group with less than half as many points as the group before is merged into that group.
    """
    groups: list[list[tuple[float, float]]] = []
    for point in points:
        if not groups or point[0] - groups[-1][0][0] >= width:
            groups.append([])
        groups[-1].append(point)
    if len(groups) > 1 and 2 * len(groups[-1]) < len(groups[-2]):
        rest = groups.pop()
        groups[-1] += rest
    return tuple((fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups)


def _rows(plan: Plan, cells: Sequence[Cell], curves: dict[str, list[Curve]]) -> Iterator[FigureRow]:
    code_percents = sorted({float(cell.code_percent) for cell in plan.cells if cell.code_percent is not None})
    lines = {cell.name: _lines(cell, code_percents, curves[cell.name]) for cell in cells}
    losses = [y for own in lines.values() for line in own for _, y in line.curve]
    if not losses:
        return
    margin = (max(losses) - min(losses)) * 0.05 or 0.05
    limits = (min(losses) - margin, max(losses) + margin)
    ranks = len(code_percents)
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        panels = []
        for size in sorted(plan.shapes, key=lambda size: (plan.shapes[size].n, size)):
            own = tuple(line for cell in cells if (cell.recipe, cell.size) == (recipe, size) for line in lines[cell.name])
            if own:
                panels.append(Panel(size, "tokens read", "loss, nats per token", False, (), limits, "code", ranks, CODE_LEGEND, own))
        if panels:
            yield FigureRow(recipe, tuple(panels))


def _lines(cell: Cell, code_percents: list[float], curves: list[Curve]) -> list[Line]:
    code = None if cell.code_percent is None else float(cell.code_percent)
    rank = None if code is None else code_percents.index(code)
    last_x = max((curve[-1][0] for curve in curves if curve), default=0.0)
    label = "" if code is None else f"{code:g} %"
    return [Line(label if curve[-1][0] == last_x else "", rank, (), curve) for curve in curves if curve]
