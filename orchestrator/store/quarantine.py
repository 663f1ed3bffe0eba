"""Moves what is damaged aside, so that what needs it is done again: the one exception to "a record never changes".

Trainer and `upkeep` call it while they hold the lease of the work that made the artifact. First the copy to
damaged/, then `done/` goes, then record or pointer: whoever is killed in between leaves a state that the next one repairs.
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


def move_record_aside(store: Store, digest: str, why: str) -> None:
    """Task `digest` counts as not done any more."""
    copy_aside(store, record_key(digest), why)
    store.objects.delete(done_key(digest))
    store.objects.delete(record_key(digest))


def move_checkpoint_aside(store: Store, work_root: str, tokens: int, why: str) -> None:
    """The checkpoint at `tokens` counts no more, nor does the record of the task that ends there."""
    copy_aside(store, checkpoint_pointer_key(work_root, tokens), why)
    digest = task_that_ends_at(store, work_root, tokens)
    if digest is not None:
        move_record_aside(store, digest, why)
    store.objects.delete(checkpoint_pointer_key(work_root, tokens))


def copy_aside(store: Store, key: str, why: str) -> None:
    """Copy the object to damaged/, with a note that says why and when. Nothing happens if it is not there."""
    try:
        body = store.objects.get(key)
    except KeyMissing:
        return
    copy = damaged_key(key, uuid.uuid4().hex[:12])
    note: Json = {"key": key, "why": why, "at": store.clock().isoformat()}
    store.objects.put(f"{copy}.why.json", json.dumps(note, indent=1).encode())
    store.objects.put(copy, body)


def task_that_ends_at(store: Store, work_root: str, tokens: int) -> str | None:
    """Digest of the train task of this trajectory that ends at `tokens`, found through any task that was worked on here."""
    for digest in {body.digest for body in history(store, work_root)} - {""}:
        try:
            task = read_task(store, digest)
        except (KeyMissing, Damaged):
            continue
        if isinstance(task, TrainTask):
            return digest_of_task(TrainTask(task.trajectory, tokens))
    return None
