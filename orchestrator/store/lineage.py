"""Select the attempt whose metrics are effective at each number of tokens. A pure function of leases and checkpoint pointers.

`metrics` calls it. Every published checkpoint has one lineage: a chain of attempts, each resumed from a checkpoint of the one before.
Beyond the highest checkpoint, the latest attempt is effective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.store.leases import LeaseBody


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of `attempt` with after < tokens <= until. `until` is None for no limit; `after` is -1 for the start."""

    attempt: int
    after: int
    until: int | None


def effective_lineage(attempts: Sequence[LeaseBody], pointers: Mapping[int, int], at_most: int | None) -> list[Segment]:
    """Return the effective segments in order. `attempts`: those that started; `pointers`: tokens -> attempt that published it."""
    by_number = {body.number: body for body in attempts}
    tip = _tip(by_number, pointers, at_most)
    segments: list[Segment] = []
    until = at_most
    while tip is not None and tip in by_number:
        start = by_number[tip].from_tokens
        if until is None or until > start or start == 0:
            segments.append(Segment(tip, start if start else -1, until))
            until = start
        tip = _before(by_number[tip], pointers) if start else None
    return segments[::-1]


def _tip(by_number: Mapping[int, LeaseBody], pointers: Mapping[int, int], at_most: int | None) -> int | None:
    """Return the last attempt of the lineage.

    If a checkpoint exists at or past `at_most`, this is the attempt that wrote the nearest one. Otherwise it is the latest attempt,
    provided that it resumed from the highest checkpoint; a run to a shorter horizon does not.
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
    """Return the attempt whose checkpoint `body` resumed from."""
    before = body.from_attempt if body.from_attempt is not None else pointers.get(body.from_tokens)
    return before if before is not None and before < body.number else None
