"""Which attempt's rows count where: a pure function of leases and pointers.

`metrics` asks it. A state that a pointer keeps has one line of attempts behind it, each taken up where the one before was left; beyond the
highest pointer, the latest attempt counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.store.leases import LeaseBody


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of `attempt` with after < tokens <= until count; None for as far as it got. -1 for `after` is the very start."""

    attempt: int
    after: int
    until: int | None


def line_that_counts(attempts: Sequence[LeaseBody], pointers: Mapping[int, int], at_most: int | None) -> list[Piece]:
    """Pieces in order. `attempts`: those that took the work up; `pointers`: tokens -> attempt whose checkpoint stands there."""
    by_number = {body.number: body for body in attempts}
    tip = _tip(by_number, pointers, at_most)
    pieces: list[Piece] = []
    until = at_most
    while tip is not None and tip in by_number:
        start = by_number[tip].from_tokens
        if until is None or until > start or start == 0:
            pieces.append(Piece(tip, start if start else -1, until))
            until = start
        tip = _before(by_number[tip], pointers) if start else None
    return pieces[::-1]


def _tip(by_number: Mapping[int, LeaseBody], pointers: Mapping[int, int], at_most: int | None) -> int | None:
    """The attempt that the line ends with.

    Where a pointer stands at or past the end asked for, the attempt behind the nearest. Else the latest attempt, if it took up
    the highest state that is kept or went past it; a run to a shorter horizon did not.
    """
    known = {tokens: number for tokens, number in pointers.items() if number in by_number}
    covering = [tokens for tokens in known if at_most is not None and tokens >= at_most]
    if covering:
        return known[min(covering)]
    latest = max(by_number, default=None)
    if not known or latest is None:
        return latest
    highest = max(known)
    return latest if by_number[latest].from_tokens >= highest else known[highest]


def _before(body: LeaseBody, pointers: Mapping[int, int]) -> int | None:
    """The attempt whose checkpoint `body` took up."""
    before = body.from_attempt if body.from_attempt is not None else pointers.get(body.from_tokens)
    return before if before is not None and before < body.number else None
