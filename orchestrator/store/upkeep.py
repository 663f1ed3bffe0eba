"""Looks after a store: finds what is broken, and removes what nobody needs.

The command line (`scaling-study store verify`, `store gc`) calls it. Neither touches what a live lease works on.
"""

from dataclasses import dataclass

from orchestrator.contract.words import ExitCode
from orchestrator.store.aside import move_checkpoint_aside, move_record_aside
from orchestrator.store.leases import Holder, take
from orchestrator.store.objects import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """Something broken. `repaired`: it was moved aside, and what needs it is done again by the next run."""

    key: str
    problem: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that nobody needs."""

    key: str
    bytes: int
    why: str


def move_aside(store: Store, root: str, why: str, holder: Holder, *, digest: str = "", tokens: int | None = None) -> None:
    """Move a damaged record (of task `digest`) or checkpoint (at `tokens`) of `root` aside, under its lease. Raises LeaseHeld."""
    lease = take(store, root, digest, holder)
    try:
        if tokens is not None:
            move_checkpoint_aside(store, root, tokens, why)
        if digest:
            move_record_aside(store, digest, why)
    finally:
        lease.end("moved aside", ExitCode.DONE, why)
