"""Moves a damaged record or checkpoint aside under the lease of the work that made it, so that the next run makes it again.

`verification` calls it, and every task that finds its input damaged: an evaluation its state, a training its shards.
"""

from orchestrator.contract.vocabulary import ExitCode
from orchestrator.store.leases import Holder, take
from orchestrator.store.objects import Store
from orchestrator.store.quarantine import move_checkpoint_aside, move_record_aside


def move_aside(store: Store, work_root: str, why: str, holder: Holder, *, digest: str = "", tokens: int | None = None) -> None:
    """Move the record of task `digest`, the checkpoint at `tokens`, or both, of `work_root` to damaged/. Raises LeaseHeld."""
    lease = take(store, work_root, digest, holder)
    try:
        if tokens is not None:
            move_checkpoint_aside(store, work_root, tokens, why)
        if digest:
            move_record_aside(store, digest, why)
    finally:
        lease.end("moved aside", ExitCode.DONE, why)
