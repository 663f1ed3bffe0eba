"""The permutation of windows is a bijection for every size and depends only on its key."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer.data.order import permutation

DIGEST = "ab" * 32
sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**63)


def order(seed: int, digest: str, epoch: int, windows: int) -> list[int]:
    found: list[int] = permutation(seed, digest, epoch, windows)(np.arange(windows)).tolist()
    return found


@given(sizes, seeds, st.integers(0, 50))
def test_each_window_occurs_once_per_epoch(windows: int, seed: int, epoch: int) -> None:
    assert sorted(order(seed, DIGEST, epoch, windows)) == list(range(windows))


@given(sizes, seeds, st.data())
def test_window_at_a_position_does_not_depend_on_the_other_positions(windows: int, seed: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, windows - 1), min_size=1, max_size=20))
    whole = order(seed, DIGEST, 0, windows)
    assert permutation(seed, DIGEST, 0, windows)(np.array(positions)).tolist() == [whole[position] for position in positions]


def test_large_source_has_an_order() -> None:
    windows = 3 * 10**11 + 7
    found = permutation(1, DIGEST, 0, windows)(np.array([[0, 1], [windows - 2, windows - 1]]))
    assert found.shape == (2, 2)
    assert len(set(found.ravel().tolist())) == 4
    assert found.min() >= 0
    assert found.max() < windows


@pytest.mark.parametrize(
    "other",
    [(2, DIGEST, 0, 1000), (1, "cd" * 32, 0, 1000), (1, DIGEST, 1, 1000), (1, DIGEST, 0, 1001)],
    ids=["seed", "digest", "epoch", "size"],
)
def test_order_depends_on_seed_digest_epoch_and_size(other: tuple[int, str, int, int]) -> None:
    one = np.array(order(1, DIGEST, 0, 1000))
    same_places = (one == np.array(order(*other))[:1000]).sum()
    assert same_places < 10


def test_order_equals_the_recorded_one() -> None:
    """Recorded values: a change of the order requires a higher NUMERICS."""
    assert order(1, DIGEST, 0, 12) == [5, 6, 11, 4, 3, 10, 7, 9, 0, 8, 2, 1]
    assert permutation(7, DIGEST, 3, 10**9)(np.array([0, 1, 10**9 - 1])).tolist() == [590739539, 485313754, 459774740]


@pytest.mark.parametrize("windows", [3, 5])
def test_permutations_of_few_windows_are_equally_likely(windows: int) -> None:
    draws, orders = 2000, factorial(windows)
    found = Counter(tuple(order(seed, DIGEST, 0, windows)) for seed in range(draws))
    expected = draws / orders
    chi_squared = sum((found[each] - expected) ** 2 / expected for each in found) + (orders - len(found)) * expected
    # four standard deviations above the mean of the chi-squared distribution
    assert chi_squared < (orders - 1) + 4 * (2 * (orders - 1)) ** 0.5


def test_adjacent_positions_have_unrelated_windows() -> None:
    found = np.array(order(1, DIGEST, 0, 20_000))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(found, np.arange(20_000))[0, 1]) < 0.03
    assert (np.abs(np.diff(found)) < 10).mean() < 0.003
