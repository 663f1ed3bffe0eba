"""Compute the source of any window of a trajectory, in closed form.

The planner counts the windows of each source with it, the trainer selects the next window. Sources, sorted by prepare digest, are the
leaves of a balanced binary tree. Of the first n windows of a node, the left child, with share a of the node's total t, gets
floor((2 n a + t) / 2 t). With up to 16 sources, every prefix is within two windows of its target.
"""

from collections.abc import Sequence


def counts(shares: Sequence[int], n: int) -> list[int]:
    """Return the number of the first `n` windows from each source. `shares`: positive, in the order of the prepare digests."""
    if len(shares) == 1:
        return [n]
    middle = len(shares) // 2
    left, right = shares[:middle], shares[middle:]
    to_left = _left_part(sum(left), sum(shares), n)
    return counts(left, to_left) + counts(right, n - to_left)


def source_of(shares: Sequence[int], k: int) -> tuple[int, int]:
    """Return the source index of window `k` (from 0) and the number of earlier windows from that source."""
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
