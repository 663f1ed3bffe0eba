"""Quarantine a damaged record or checkpoint while holding its lease, so that the next run makes it again.

Called by `verify`.
"""

from orchestrator.contract.exits import ExitCode
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.objects import Store
from orchestrator.store.quarantine import quarantine_checkpoint, quarantine_record


def quarantine_with_lease(store: Store, work_root: str, why: str, holder: Holder, *, digest: str = "", tokens: int | None = None) -> None:
    """Quarantine the record of task `digest`, the checkpoint at `tokens`, or both, of `work_root`. Raises LeaseHeld."""
    lease = acquire(store, work_root, digest, holder)
    try:
        if tokens is not None:
            quarantine_checkpoint(store, work_root, tokens, why)
        if digest:
            quarantine_record(store, digest, why)
    finally:
        lease.end("quarantined", ExitCode.DONE, why)
