"""Which source every window of a trajectory comes from: a closed form with random access.

The planner counts with it how far each source has been read, the trainer asks it what to read next. Sources, sorted by prepare digest,
are the leaves of a binary tree of halves; of the first n windows of a node with shares a (left) of t (all), the left half gets
floor((2 n a + t) / 2 t). Every prefix is within two windows of its target for 16 sources.
"""

from collections.abc import Sequence


def counts(shares: Sequence[int], n: int) -> list[int]:
    """How many of the first `n` windows come from each source. `shares`: positive, in the order of the prepare digests."""
    if len(shares) == 1:
        return [n]
    middle = len(shares) // 2
    left, right = shares[:middle], shares[middle:]
    to_left = _left_part(sum(left), sum(shares), n)
    return counts(left, to_left) + counts(right, n - to_left)


def source_of(shares: Sequence[int], k: int) -> tuple[int, int]:
    """The source of window `k` (from 0) and how many windows of that source came before it."""
    if len(shares) == 1:
        return 0, k
    middle = len(shares) // 2
    left, right = shares[:middle], shares[middle:]
    part, total = sum(left), sum(shares)
    before = _left_part(part, total, k)
    if _left_part(part, total, k + 1) > before:
        return source_of(left, before)
    index, position = source_of(right, k - before)
    return middle + index, position


def _left_part(part: int, total: int, n: int) -> int:
    return (2 * n * part + total) // (2 * total)
