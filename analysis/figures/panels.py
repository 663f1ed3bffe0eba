"""The content of every figure of scores as plain data: panels, lines, dots, labels and limits.

`report` gets the figures of a study from here, and `plot` draws them. Every dot carries its cell and the digests of its evaluate tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, TypeAlias

from analysis.tables.scores import CONTINUATION, Score, StageKey, last_scored_stages, scored_stages
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE

N_LABEL: Final = "N, parameters without input embedding"
CODE_LABEL: Final = "code in the grid's stages, % of tokens"
FIGURE_NAMES: Final = (
    "bits-per-byte-by-size", "bits-per-byte-by-code", "continuation-by-size",
    "earlier-bits-per-byte-by-size", "earlier-bits-per-byte-by-code",
)  # fmt: skip
"""Names of the figures that `score_figures` can return."""

CODE_LEGEND: Final = "code in training"
GROUPS: Final = ("text", "code")


@dataclass(frozen=True, slots=True)
class Dot:
    """The score of one model. `cell`: name of its cell; `digests`: its evaluate tasks."""

    x: float
    y: float
    cell: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line through the means over seeds (`curve`), with a dot per model.

    `rank`: index of its colour on the panel's ramp, None for a line without a rank.
    """

    label: str
    rank: int | None
    dots: tuple[Dot, ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    `ticks`: (position, label) on the x axis, empty for automatic ticks. `ramp`: what the line colours encode, "code" or "size"; `ranks`:
    number of colours. `chance`: accuracy of a random choice, drawn as a dashed line. `reference_lines`: lines of another recipe, in grey.
    """

    title: str
    x_label: str
    y_label: str
    log_x: bool
    ticks: tuple[tuple[float, str], ...]
    y_limits: tuple[float, float]
    ramp: str
    ranks: int
    legend: str
    lines: tuple[Line, ...]
    chance: float | None = None
    reference_lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class FigureRow:
    """The panels of one recipe, side by side."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. `name`: its file name without the extension."""

    name: str
    title: str
    caption: str
    rows: tuple[FigureRow, ...]


@dataclass(frozen=True, slots=True)
class _Metric:
    suite: str
    metric: str
    label: str
    chance: float | None


_BITS: Final = _Metric("bpb", BITS_PER_BYTE, "bits per byte", None)
_DOTS_NOTE: Final = "Each dot is one model, trained with one seed. Lines join the means over seeds."


def score_figures(scores: Sequence[Score], chance: float | None = None, items: tuple[int, int] | None = None) -> list[Figure]:
    """Return all figures that can be drawn from `scores`; empty ones are left out.

    `chance`: accuracy of a random choice in the continuation suite. `items`: its smallest and largest number of items per evaluation.
    """
    last = last_scored_stages(scores)
    earlier = [stage for stage in scored_stages(scores) if stage not in last]
    bits = [score for score in scores if (score.suite, score.metric) == (_BITS.suite, _BITS.metric)]
    accuracies = [score for score in scores if (score.suite, score.metric) == (CONTINUATION, ACCURACY)]
    bits_caption = f"Bits per byte of held-out text and code; lower is better. {_DOTS_NOTE}"
    chance_note = "" if chance is None else f"A random choice has an accuracy of {100 * chance:.3g} %. "
    accuracy_caption = (
        "Share of items in which the model prefers the true continuation of a held-out document to continuations from other documents; "
        f"higher is better. {chance_note}{_standard_error_note(items)}{_DOTS_NOTE}"
    )
    continuation = _Metric(CONTINUATION, ACCURACY, ACCURACY, chance)
    titles = (
        "Bits per byte against model size", "Bits per byte against code percent", "Continuation accuracy against model size",
        "Earlier stages: bits per byte against model size", "Earlier stages: bits per byte against code percent",
    )  # fmt: skip
    captions = (bits_caption, bits_caption, accuracy_caption, bits_caption, bits_caption)
    rows = (
        _rows(bits, last, _BITS, _by_size), _rows(bits, last, _BITS, _by_code), _rows(accuracies, last, continuation, _by_size),
        _rows(bits, earlier, _BITS, _by_size), _rows(bits, earlier, _BITS, _by_code),
    )  # fmt: skip
    figures = [Figure(*parts) for parts in zip(FIGURE_NAMES, titles, captions, rows, strict=True)]
    return [figure for figure in figures if figure.rows]


@dataclass(frozen=True, slots=True)
class _SharedAxes:
    """What the panels of one metric share, so that they can be compared by eye.

    `sizes`: name -> N, smallest first. `limits`: y limits by group. `grid_scores`: scores of the first recipe with a code percent grid, the
    reference lines for recipes without one.
    """

    sizes: dict[str, int]
    code_percents: list[float]
    limits: dict[str, tuple[float, float]]
    grid_scores: list[Score]


_PanelOf: TypeAlias = Callable[[Sequence[Score], _SharedAxes, _Metric], Panel | None]


def _rows(scores: Sequence[Score], stages: Sequence[StageKey], metric: _Metric, panel_of: _PanelOf) -> tuple[FigureRow, ...]:
    by_stage = {stage: [s for s in scores if (s.recipe, s.stage_number, s.stage) == stage] for stage in stages}
    axes = _SharedAxes(
        sizes=dict(sorted({score.size: score.n for score in scores}.items(), key=lambda pair: (pair[1], pair[0]))),
        code_percents=sorted({score.code_percent for score in scores if score.code_percent is not None}),
        limits={
            # only from the drawn stages: the higher values of early stages would compress the lines of the last one
            group: _limits([s.value for of_stage in by_stage.values() for s in of_stage if s.group == group], metric.chance)
            for group in GROUPS
        },
        grid_scores=next((of_stage for of_stage in by_stage.values() if any(s.code_percent is not None for s in of_stage)), []),
    )
    rows = []
    for stage, of_stage in by_stage.items():
        panels = [panel_of(own, axes, metric) for group in GROUPS if (own := [score for score in of_stage if score.group == group])]
        if shown := tuple(panel for panel in panels if panel is not None):
            rows.append(FigureRow(_row_title(stage, of_stage, axes), shown))
    return tuple(rows)


def _by_size(scores: Sequence[Score], axes: _SharedAxes, metric: _Metric) -> Panel:
    group = scores[0].group
    ticks = tuple((float(n), size) for size, n in axes.sizes.items())
    fixed = _line("", None, [s for s in scores if s.code_percent is None], lambda s: float(s.n))
    lines = (*_grid_lines(scores, axes), *([fixed] if fixed.dots else []))
    reference_lines = _grid_lines([s for s in axes.grid_scores if s.group == group], axes) if fixed.dots else ()
    return Panel(
        f"held-out {group}", N_LABEL, metric.label, True, ticks, axes.limits[group], "code", len(axes.code_percents), CODE_LEGEND, lines,
        metric.chance, reference_lines,
    )  # fmt: skip


def _grid_lines(scores: Sequence[Score], axes: _SharedAxes) -> tuple[Line, ...]:
    """Return one line over N per code percent."""
    lines = [
        _line(f"{code:g} %", rank, [s for s in scores if s.code_percent == code], lambda s: float(s.n))
        for rank, code in enumerate(axes.code_percents)
    ]
    return tuple(line for line in lines if line.dots)


def _by_code(scores: Sequence[Score], axes: _SharedAxes, metric: _Metric) -> Panel | None:
    group = scores[0].group
    of_grid = [score for score in scores if score.code_percent is not None]
    all_lines = [
        _line(size, rank, [score for score in of_grid if score.size == size], lambda s: s.code_percent or 0.0)
        for rank, size in enumerate(axes.sizes)
    ]
    lines = tuple(line for line in all_lines if line.dots)
    if not lines:
        return None
    ticks = tuple((code, f"{code:g}") for code in axes.code_percents)
    return Panel(
        f"held-out {group}", CODE_LABEL, metric.label, False, ticks, axes.limits[group], "size", len(axes.sizes), "size", lines,
        metric.chance,
    )  # fmt: skip


def _line(label: str, rank: int | None, scores: Sequence[Score], x: Callable[[Score], float]) -> Line:
    dots = tuple(Dot(x(score), score.value, score.cell, score.digests) for score in scores)
    by_x: dict[float, list[float]] = {}
    for dot in dots:
        by_x.setdefault(dot.x, []).append(dot.y)
    return Line(label, rank, dots, tuple((at, fmean(values)) for at, values in sorted(by_x.items())))


def _limits(values: Sequence[float], chance: float | None) -> tuple[float, float]:
    """Return the range of the values and of `chance` with a margin; never an empty range."""
    shown = [*values, *([chance] if chance is not None else [])] or [0.0, 1.0]
    margin = (max(shown) - min(shown)) * 0.06 or 0.05
    return min(shown) - margin, max(shown) + margin


def _standard_error_note(items: tuple[int, int] | None) -> str:
    if items is None:
        return ""
    fewest, most = items
    number = fewest if fewest == most else f"{fewest} to {most}"
    # standard error of a proportion p over n items: sqrt(p (1 - p) / n), largest at p = 0.5
    return f"With {number} items per evaluation, the standard error of a dot is at most {50 / fewest**0.5:.2g} percentage points. "


def _row_title(stage: StageKey, scores: Sequence[Score], axes: _SharedAxes) -> str:
    recipe, _, name = stage
    if any(score.code_percent is not None for score in scores):
        return f"{recipe}, after {name}"
    code_percents = sorted({f"{score.chain_code_percent:.3g}" for score in scores})
    grey = f"; grey: {axes.grid_scores[0].recipe}" if axes.grid_scores else ""
    return f"{recipe}, after {name}: {' or '.join(code_percents)} % code over all stages{grey}"
