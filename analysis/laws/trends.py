"""Linear trends of a metric over log2 N, with the spread between seeds.

The report shows them below the figures. A trend describes the sizes that were trained and is not meant for extrapolation: power laws need
more sizes than a first study has and are not fitted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from statistics import fmean, linear_regression
from typing import Final, TypeAlias

Seed: TypeAlias = tuple[int, int]
"""(seed of the initialisation, seed of the data order)"""

MIN_SIZES: Final = 3
"""Two points always lie on a line, so their residuals would not show a poor fit."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric's value for one model. `n`: parameters without the input embedding."""

    seed: Seed
    n: int
    value: float


@dataclass(frozen=True, slots=True)
class Trend:
    """Least-squares line through the means per size over log2 N. All values are in the metric's unit.

    `per_doubling`: slope, the change for twice the N. `by_seed`: the slope of each seed that has all sizes. `seed_std`: standard deviation
    between the seeds of a size, pooled over sizes; None if no size has two seeds. `max_residual`: largest absolute residual of a mean.
    """

    per_doubling: float
    by_seed: tuple[float, ...]
    seed_std: float | None
    max_residual: float
    sizes: int


@dataclass(frozen=True, slots=True)
class NoTrend:
    """The reason why no trend could be fitted."""

    reason: str


def fit_trend(points: Sequence[Measurement]) -> Trend | NoTrend:
    """Fit a line to the means per size over log2 N, or return the reason why it cannot be fitted."""
    by_size = {n: [point.value for point in points if point.n == n] for n in sorted({point.n for point in points})}
    if len(by_size) < MIN_SIZES:
        return NoTrend(f"requires at least {MIN_SIZES} sizes, found {len(by_size)}")
    means = {n: fmean(values) for n, values in by_size.items()}
    slope, intercept = _fit_line(means)
    return Trend(
        per_doubling=slope,
        by_seed=tuple(_fit_line(own)[0] for own in _complete_seeds(points, set(by_size))),
        seed_std=_pooled_std(list(by_size.values())),
        max_residual=max(abs(mean - slope * log2(n) - intercept) for n, mean in means.items()),
        sizes=len(by_size),
    )


def _fit_line(values: dict[int, float]) -> tuple[float, float]:
    slope, intercept = linear_regression([log2(n) for n in values], list(values.values()))
    return slope, intercept


def _complete_seeds(points: Sequence[Measurement], sizes: set[int]) -> list[dict[int, float]]:
    by_seed: dict[Seed, dict[int, float]] = {}
    for point in points:
        by_seed.setdefault(point.seed, {})[point.n] = point.value
    return [values for _, values in sorted(by_seed.items()) if set(values) == sizes]


def _pooled_std(groups: Sequence[Sequence[float]]) -> float | None:
    degrees_of_freedom = sum(len(values) - 1 for values in groups)
    if degrees_of_freedom == 0:
        return None
    return sqrt(sum((value - fmean(values)) ** 2 for values in groups for value in values) / degrees_of_freedom)
