"""Repair a store: quarantine damaged objects, so that the next run makes them again, and restore what can be derived from others.

Called by `verify`.
"""

from pathlib import PurePosixPath
from uuid import uuid4

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.record import Record
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store import artifacts
from orchestrator.store.addresses import attempt_key
from orchestrator.store.checkpoints import MANIFEST, Manifest
from orchestrator.store.documents import parse_model
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.objects import Store
from orchestrator.store.pointers import Pointer, create_pointer
from orchestrator.store.quarantine import copy_to_quarantine, quarantine_checkpoint, quarantine_record


def quarantine_with_lease(store: Store, work_root: str, why: str, holder: Holder, *, digest: str = "", tokens: int | None = None) -> None:
    """Acquire the lease on `work_root`, then quarantine the record of `digest`, the checkpoint at `tokens`, or both. Raises LeaseHeld."""
    lease = acquire(store, work_root, digest, holder)
    try:
        if tokens is not None:
            quarantine_checkpoint(store, work_root, tokens, why)
        if digest:
            quarantine_record(store, digest, why)
    finally:
        lease.end("quarantined", ExitCode.DONE, why)


def quarantine_object(store: Store, key: str, why: str) -> None:
    """Move an object that no lease protects to damaged/."""
    copy_to_quarantine(store, key, why)
    store.objects.delete(key)


def lost_pointer(store: Store, work_root: str, tokens: int, record: Record) -> Pointer | None:
    """Rebuild the pointer to the final checkpoint of a recorded train task from its manifest; None if no manifest matches the record."""
    for artifact in record.artifacts.values():
        manifest_key = str(PurePosixPath(artifact.key).parent / MANIFEST)
        try:
            body = store.objects.get(manifest_key)
            manifest = parse_model(Manifest, body, manifest_key, "a valid manifest")
        except (KeyMissing, Damaged):
            return None
        if manifest_key != attempt_key(work_root, manifest.attempt, "checkpoints", str(tokens), MANIFEST):
            return None
        if manifest.tokens != tokens or manifest.files != record.artifacts:
            return None
        own = artifacts.describe(manifest_key, body)
        return Pointer(tokens=tokens, attempt=manifest.attempt, manifest=own, nonce=uuid4().hex)
    return None


def restore_pointer(store: Store, work_root: str, pointer: Pointer) -> None:
    """Create a lost pointer again. Raises Damaged if another object is in its place."""
    create_pointer(store, work_root, pointer)
