"""What every figure shows, as data: panels, lines, dots and labels, without a pixel.

`report` asks for the figures of a study, `plot` draws them. Every dot knows its cell and the digests it came from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, TypeAlias

from analysis.tables.scores import CONTINUATION, Place, Score, last_places, places
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE

N_LABEL: Final = "N, parameters without input embedding"
CODE_LABEL: Final = "code in the grid's stages, % of tokens"
NAMES: Final = (
    "bits-per-byte-by-size", "bits-per-byte-by-code", "continuation-by-size",
    "earlier-bits-per-byte-by-size", "earlier-bits-per-byte-by-code",
)  # fmt: skip
"""Of the figures that `figures` may give."""
CODE_LEGEND: Final = "code in training"
GROUPS: Final = ("text", "code")


@dataclass(frozen=True, slots=True)
class Dot:
    """One model. `name` is its cell's."""

    x: float
    y: float
    name: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """`curve` runs through the means of the seeds. `rank`: its place in the palette, None for a line of no order."""

    label: str
    rank: int | None
    dots: tuple[Dot, ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `ticks`: of x, value and label, empty for ordinary ones. `ramp`: what the colours order,
    code or size, and `ranks` how many it has. `backdrop`: lines of another recipe, to compare with."""

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
    backdrop: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Strip:
    """Panels side by side that show one recipe."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """`name` is that of its file."""

    name: str
    title: str
    caption: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class _Metric:
    suite: str
    metric: str
    label: str
    chance: float | None


_BITS: Final = _Metric("bpb", BITS_PER_BYTE, "bits per byte", None)
_SEEDS: Final = "Every dot is one model, that is one seed; lines join the means of the seeds."


def figures(found: Sequence[Score], chance: float | None = None, questions: tuple[int, int] | None = None) -> list[Figure]:
    """All figures that these scores allow; those that would be empty are left out.

    `chance`: accuracy of a blind guess at a continuation. `questions`: fewest and most of them in an evaluation.
    """
    last = last_places(found)
    earlier = [place for place in places(found) if place not in last]
    bits = [score for score in found if (score.suite, score.metric) == (_BITS.suite, _BITS.metric)]
    choice = [score for score in found if (score.suite, score.metric) == (CONTINUATION, ACCURACY)]
    lower = f"Held-out text and code, lower is better. {_SEEDS}"
    guess = "" if chance is None else f"A blind guess is right in {100 * chance:.3g} %. "
    right = (
        "How often the true continuation of a held-out document is preferred to other documents', higher is better. "
        f"{guess}{_asked(questions)}{_SEEDS}"
    )
    continuation = _Metric(CONTINUATION, ACCURACY, ACCURACY, chance)
    titles = (
        "Bits per byte against size", "Bits per byte against code percent", "Choosing the true continuation",
        "Earlier stages, against size", "Earlier stages, against code percent",
    )  # fmt: skip
    captions = (lower, lower, right, lower, lower)
    strips = (
        _strips(bits, last, _BITS, _by_size), _strips(bits, last, _BITS, _by_code), _strips(choice, last, continuation, _by_size),
        _strips(bits, earlier, _BITS, _by_size), _strips(bits, earlier, _BITS, _by_code),
    )  # fmt: skip
    drawn = [Figure(*parts) for parts in zip(NAMES, titles, captions, strips, strict=True)]
    return [figure for figure in drawn if figure.strips]


@dataclass(frozen=True, slots=True)
class _Axes:
    """What the panels of one metric share, so that they can be compared by eye.

    `sizes`: name -> N, smallest first. `grid`: the scores of the first recipe that has a grid, for recipes without one to stand before.
    """

    sizes: dict[str, int]
    code_percents: list[float]
    limits: dict[str, tuple[float, float]]
    grid: list[Score]


_PanelOf: TypeAlias = Callable[[Sequence[Score], _Axes, _Metric], Panel | None]


def _strips(found: Sequence[Score], at: Sequence[Place], metric: _Metric, panel_of: _PanelOf) -> tuple[Strip, ...]:
    by_place = {place: [s for s in found if (s.recipe, s.stage_number, s.stage) == place] for place in at}
    axes = _Axes(
        sizes=dict(sorted({score.size: score.n for score in found}.items(), key=lambda pair: (pair[1], pair[0]))),
        code_percents=sorted({score.code_percent for score in found if score.code_percent is not None}),
        limits={
            # of what is drawn here alone: an early stage's values would press the lines of the last one to the floor
            group: _limits([s.value for here in by_place.values() for s in here if s.group == group], metric.chance)
            for group in GROUPS
        },
        grid=next((here for here in by_place.values() if any(s.code_percent is not None for s in here)), []),
    )
    strips = []
    for place, here in by_place.items():
        panels = [panel_of(own, axes, metric) for group in GROUPS if (own := [score for score in here if score.group == group])]
        if shown := tuple(panel for panel in panels if panel is not None):
            strips.append(Strip(_strip_title(place, here, axes), shown))
    return tuple(strips)


def _by_size(own: Sequence[Score], axes: _Axes, metric: _Metric) -> Panel:
    group = own[0].group
    ticks = tuple((float(n), size) for size, n in axes.sizes.items())
    fixed = _line("", None, [s for s in own if s.code_percent is None], lambda s: float(s.n))
    lines = (*_grid_lines(own, axes), *([fixed] if fixed.dots else []))
    backdrop = _grid_lines([s for s in axes.grid if s.group == group], axes) if fixed.dots else ()
    return Panel(
        f"held-out {group}", N_LABEL, metric.label, True, ticks, axes.limits[group], "code", len(axes.code_percents), CODE_LEGEND, lines,
        metric.chance, backdrop,
    )  # fmt: skip


def _grid_lines(own: Sequence[Score], axes: _Axes) -> tuple[Line, ...]:
    """A line over N for every code percent."""
    lines = [
        _line(f"{code:g} %", rank, [s for s in own if s.code_percent == code], lambda s: float(s.n))
        for rank, code in enumerate(axes.code_percents)
    ]
    return tuple(line for line in lines if line.dots)


def _by_code(own: Sequence[Score], axes: _Axes, metric: _Metric) -> Panel | None:
    group = own[0].group
    lines = []
    for rank, size in enumerate(axes.sizes):
        on_the_grid = [s for s in own if s.size == size and s.code_percent is not None]
        lines.append(_line(size, rank, on_the_grid, lambda s: s.code_percent or 0.0))
    kept = tuple(line for line in lines if line.dots)
    if not kept:
        return None
    ticks = tuple((code, f"{code:g}") for code in axes.code_percents)
    return Panel(
        f"held-out {group}",
        CODE_LABEL,
        metric.label,
        False,
        ticks,
        axes.limits[group],
        "size",
        len(axes.sizes),
        "size",
        kept,
        metric.chance,
    )


def _line(label: str, rank: int | None, own: Sequence[Score], x: Callable[[Score], float]) -> Line:
    dots = tuple(Dot(x(score), score.value, score.cell, score.digests) for score in own)
    by_x: dict[float, list[float]] = {}
    for dot in dots:
        by_x.setdefault(dot.x, []).append(dot.y)
    return Line(label, rank, dots, tuple((at, fmean(values)) for at, values in sorted(by_x.items())))


def _limits(values: Sequence[float], chance: float | None) -> tuple[float, float]:
    """A little more than what is shown; never an empty range."""
    shown = [*values, *([chance] if chance is not None else [])] or [0.0, 1.0]
    room = (max(shown) - min(shown)) * 0.06 or 0.05
    return min(shown) - room, max(shown) + room


def _asked(questions: tuple[int, int] | None) -> str:
    if questions is None:
        return ""
    fewest, most = questions
    # of a share p over n answers: sqrt(p (1 - p) / n), largest at a half
    number = fewest if fewest == most else f"{fewest} to {most}"
    return f"With {number} questions the standard error of one dot is up to {50 / fewest**0.5:.2g} points. "


def _strip_title(place: Place, here: Sequence[Score], axes: _Axes) -> str:
    recipe, _, stage = place
    if any(score.code_percent is not None for score in here):
        return f"{recipe}, after {stage}"
    shares = sorted({f"{score.chain_code_percent:.3g}" for score in here})
    grey = f"; in grey {axes.grid[0].recipe}" if axes.grid else ""
    return f"{recipe}, after {stage}: {' or '.join(shares)} % code in all that was read{grey}"
