"""The order of sources in a mixture: accurate shares at every prefix, random access."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.mixture import counts, source_of

shares_of_sources = st.lists(st.integers(1, 1000), min_size=1, max_size=16)


def largest_deviation(shares: list[int], prefixes: range) -> Fraction:
    """Return the largest deviation of any source from its share over all prefixes, in windows."""
    total = sum(shares)
    return max(abs(count - Fraction(n * share, total)) for n in prefixes for count, share in zip(counts(shares, n), shares, strict=True))


@given(shares_of_sources, st.integers(0, 10**7))
def test_every_prefix_is_within_two_windows_of_every_share(shares: list[int], start: int) -> None:
    assert largest_deviation(shares, range(start, start + 50)) <= 2


@pytest.mark.parametrize("shares", [[1] * 16, list(range(1, 17)), [1] * 15 + [10**6], [10**6] + [1] * 15, [999, 1] * 8, [1, 2]])
def test_every_prefix_of_a_period_is_within_two_windows_of_every_share(shares: list[int]) -> None:
    assert largest_deviation(shares, range(min(sum(shares), 2000) + 1)) <= 2


@given(shares_of_sources, st.integers(0, 10**12))
def test_counts_sum_to_the_number_of_windows(shares: list[int], n: int) -> None:
    assert sum(counts(shares, n)) == n


@given(shares_of_sources, st.integers(0, 10**12))
def test_the_source_of_a_window_is_the_source_whose_count_increases(shares: list[int], k: int) -> None:
    source, position = source_of(shares, k)
    before, after = counts(shares, k), counts(shares, k + 1)
    assert before[source] == position
    assert [b - a for a, b in zip(before, after, strict=True)] == [int(i == source) for i in range(len(shares))]


@given(shares_of_sources, st.integers(1, 1000))
def test_order_depends_only_on_ratios_of_shares(shares: list[int], factor: int) -> None:
    assert [source_of(shares, k) for k in range(40)] == [source_of([share * factor for share in shares], k) for k in range(40)]


@given(shares_of_sources)
def test_a_whole_period_gives_exact_shares(shares: list[int]) -> None:
    assert counts(shares, sum(shares)) == shares
