from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.laws.trends import Measurement, NoTrend, Trend, fit_trend
from orchestrator.contract.sizes import flops_palm
from tests.analysis.synthetic_study import shape

SEED = (1, 1)


@pytest.mark.parametrize("sizes", [(), (100,), (100, 200)])
def test_fewer_than_three_sizes_give_a_reason_instead_of_a_slope(sizes: tuple[int, ...]) -> None:
    assert fit_trend([Measurement(SEED, n, 1.0) for n in sizes]) == NoTrend(f"requires at least 3 sizes, found {len(sizes)}")


@given(slope=st.floats(-1, 1), level=st.floats(0, 5), sizes=st.sets(st.integers(10, 10**10), min_size=3, max_size=6))
def test_a_straight_line_over_log_n_is_recovered(slope: float, level: float, sizes: set[int]) -> None:
    if max(sizes) / min(sizes) < 1.5:
        return
    found = fit_trend([Measurement(SEED, n, level + slope * log2(n)) for n in sizes])
    assert isinstance(found, Trend)
    assert found.per_doubling == pytest.approx(slope, abs=1e-6)
    assert found.max_residual == pytest.approx(0, abs=1e-6)
    assert list(found.by_seed) == pytest.approx([slope], abs=1e-6)


def test_the_standard_deviation_of_seeds_is_pooled_over_sizes() -> None:
    noisy = [Measurement((seed, seed), n, 3 - log2(n) / 10 + (0.1 if seed == 1 else -0.1)) for n in (64, 128, 256) for seed in (1, 2)]
    found = fit_trend(noisy)
    assert isinstance(found, Trend)
    assert found.per_doubling == pytest.approx(-0.1)
    assert list(found.by_seed) == pytest.approx([-0.1, -0.1])
    assert found.seed_std == pytest.approx(0.1 * 2**0.5)


def test_one_seed_has_no_standard_deviation() -> None:
    found = fit_trend([Measurement(SEED, n, float(n)) for n in (1, 2, 4)])
    assert isinstance(found, Trend)
    assert found.seed_std is None


def test_a_seed_that_lacks_a_size_has_no_slope_of_its_own() -> None:
    found = fit_trend([*(Measurement((1, 1), n, log2(n)) for n in (2, 4, 8)), *(Measurement((2, 2), n, log2(n)) for n in (2, 4))])
    assert isinstance(found, Trend)
    assert len(found.by_seed) == 1
    assert found.sizes == 3


def test_a_curve_has_the_expected_largest_residual() -> None:
    found = fit_trend([Measurement(SEED, 2, 0.0), Measurement(SEED, 4, 3.0), Measurement(SEED, 8, 0.0)])
    assert isinstance(found, Trend)
    assert (found.per_doubling, found.max_residual) == (0, 2)


def test_palm_flops_count_parameters_and_attention() -> None:
    tiny = shape("0.03M")
    assert flops_palm(tiny, 128) == 6 * tiny.n + 12 * 2 * 32 * 128
