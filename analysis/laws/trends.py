"""Numbers that describe how a metric moves with size: a slope for a doubling of N, and the spread between seeds beside it.

`report` puts them under the figures. They describe the sizes that were run and extrapolate to none; power laws and their exponents need
more sizes than a first study has, and are not fitted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from statistics import fmean, linear_regression
from typing import Final, TypeAlias

Seed: TypeAlias = tuple[int, int]
"""Seed of the initialisation, seed of the data order."""

SIZES_FOR_A_TREND: Final = 3
"""Two points always lie on a line: nothing would be left over to show that a line is wrong."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's value of a metric. `n`: parameters without the input embedding."""

    seed: Seed
    n: int
    value: float


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through the means of the sizes, over log2 N, by least squares.

    `per_doubling`: change of the metric for twice the N. `by_seed`: the same for every seed that has all the sizes. `seed_spread`:
    standard deviation between seeds inside a size, pooled over sizes; None when no size has two seeds. `largest_miss`: the largest
    distance of a mean from the line. All in the metric's unit.
    """

    per_doubling: float
    by_seed: tuple[float, ...]
    seed_spread: float | None
    largest_miss: float
    sizes: int


@dataclass(frozen=True, slots=True)
class NoTrend:
    """Why there is no slope."""

    reason: str


def trend(points: Sequence[Measured]) -> Trend | NoTrend:
    """The slope of `points` for a doubling of N, or the reason why there is none."""
    by_size = {n: [point.value for point in points if point.n == n] for n in sorted({point.n for point in points})}
    if len(by_size) < SIZES_FOR_A_TREND:
        return NoTrend(f"needs {SIZES_FOR_A_TREND} sizes, has {len(by_size)}")
    means = {n: fmean(values) for n, values in by_size.items()}
    slope, intercept = _line(means)
    return Trend(
        per_doubling=slope,
        by_seed=tuple(_line(own)[0] for own in _complete_seeds(points, set(by_size))),
        seed_spread=_pooled_deviation(list(by_size.values())),
        largest_miss=max(abs(mean - slope * log2(n) - intercept) for n, mean in means.items()),
        sizes=len(by_size),
    )


# Chowdhery et al. 2022, arXiv:2204.02311, appendix B
def _line(values: dict[int, float]) -> tuple[float, float]:
    slope, intercept = linear_regression([log2(n) for n in values], list(values.values()))
    return slope, intercept


def _complete_seeds(points: Sequence[Measured], sizes: set[int]) -> list[dict[int, float]]:
    by_seed: dict[Seed, dict[int, float]] = {}
    for point in points:
        by_seed.setdefault(point.seed, {})[point.n] = point.value
    return [values for _, values in sorted(by_seed.items()) if set(values) == sizes]


def _pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    freedom = sum(len(values) - 1 for values in groups)
    if freedom == 0:
        return None
    return sqrt(sum((value - fmean(values)) ** 2 for values in groups for value in values) / freedom)
