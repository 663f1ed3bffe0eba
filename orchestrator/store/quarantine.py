"""Quarantine damaged records and checkpoints, so that the next run makes them again.

This is the only exception to "a record never changes". The trainer and `maintenance` call it while they hold the lease of the work that
made the artifact. The order is: copy to damaged/, delete the marker in done/, delete the record or pointer. A process killed in between
leaves a state that the next call repairs.
"""

import json
import uuid

from orchestrator.contract.identity import Json
from orchestrator.contract.tasks import TrainTask, digest_of_task
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store.addresses import checkpoint_pointer_key, damaged_key, done_key, record_key
from orchestrator.store.leases import history
from orchestrator.store.objects import Store
from orchestrator.store.tasks import read_task


def quarantine_record(store: Store, digest: str, why: str) -> None:
    """Quarantine the record of task `digest`; the task is then no longer done."""
    copy_to_quarantine(store, record_key(digest), why)
    store.objects.delete(done_key(digest))
    store.objects.delete(record_key(digest))


def quarantine_checkpoint(store: Store, work_root: str, tokens: int, why: str) -> None:
    """Quarantine the checkpoint at `tokens`, and the record of the task that ends there."""
    copy_to_quarantine(store, checkpoint_pointer_key(work_root, tokens), why)
    digest = task_that_ends_at(store, work_root, tokens)
    if digest is not None:
        quarantine_record(store, digest, why)
    store.objects.delete(checkpoint_pointer_key(work_root, tokens))


def copy_to_quarantine(store: Store, key: str, why: str) -> None:
    """Copy the object, if it exists, to damaged/ with a note of the reason and time.

    Of a link or a pipe in its place only the note is written: its target may be a private file outside the store. A folder in its place is
    moved to damaged/ when the object is deleted.
    """
    body: bytes | None = None
    try:
        body = store.objects.get(key)
    except KeyMissing:
        return
    except Damaged:
        pass
    copy = damaged_key(key, uuid.uuid4().hex[:12])
    note: Json = {"key": key, "why": why, "at": store.clock().isoformat()}
    store.objects.put(f"{copy}.why.json", json.dumps(note, indent=1).encode())
    if body is not None:
        store.objects.put(copy, body)


def task_that_ends_at(store: Store, work_root: str, tokens: int) -> str | None:
    """Return the digest of the trajectory's train task that ends at `tokens`.

    The trajectory is read from any of its attempted tasks; None if none is readable.
    """
    for digest in {body.digest for body in history(store, work_root)} - {""}:
        try:
            task = read_task(store, digest)
        except (KeyMissing, Damaged):
            continue
        if isinstance(task, TrainTask):
            return digest_of_task(TrainTask(task.trajectory, tokens))
    return None
