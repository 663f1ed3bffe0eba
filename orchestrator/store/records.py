"""Records of finished tasks: created once and never overwritten.

The trainer publishes records; the local run, the controller, tracking and the report read them. A marker in `done/` makes finished tasks
quick to list. It is created after the record, and created again by any reader that finds it missing.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.record import read_record as parse_record
from orchestrator.errors import ContractError, Damaged, KeyMissing, StoreUnavailable
from orchestrator.store.addresses import DONE, done_key, record_key
from orchestrator.store.leases import Lease
from orchestrator.store.objects import Store, create_once
from orchestrator.store.quarantine import quarantine_record
from orchestrator.store.tasks import create_task, read_task

__all__ = [
    "create_task",
    "done",
    "find_record",
    "mark_done",
    "publish_record",
    "read_failure",
    "read_record",
    "read_task",
    "record_failure",
]


def publish_record(store: Store, record: Record) -> Record:
    """Publish a task's record, and return the published one: this one, or an earlier one of the same task.

    The caller must hold the lease: an earlier record that is damaged is quarantined and replaced.
    """
    body, key = record.to_bytes(), record_key(record.digest)
    try:
        published = _checked(record.digest, create_once(store.objects, key, body))
    except Damaged as problem:
        quarantine_record(store, record.digest, str(problem))
        published = _checked(record.digest, create_once(store.objects, key, body))
    mark_done(store, record.digest)
    return published


def read_record(store: Store, digest: str) -> Record | None:
    """Return the record of a task, None if it is not done. Restores a missing marker in `done/`. Raises Damaged."""
    record = find_record(store, digest)
    if record is not None:
        _repair_marker(store, digest)
    return record


def find_record(store: Store, digest: str) -> Record | None:
    """Return the record of a task, None if it is not done, without restoring its marker. Raises Damaged."""
    try:
        body = store.objects.get(record_key(digest))
    except KeyMissing:
        return None
    return _checked(digest, body)


def _checked(digest: str, body: bytes) -> Record:
    key = record_key(digest)
    advice = "`scaling-study store verify --repair` quarantines it, and the next run repeats the task"
    try:
        record = parse_record(body, key)
        found = digest_of(record.identity)
    except ContractError as problem:
        raise Damaged(f"{problem}; {advice}") from problem
    if not record.digest == found == digest:
        raise Damaged(f"{key} is the record of another task, {found[:12]}...; {advice}")
    return record


def _repair_marker(store: Store, digest: str) -> None:
    try:
        store.objects.stat(done_key(digest))
    except KeyMissing:
        with suppress(StoreUnavailable):  # a full or read-only store can still be read
            mark_done(store, digest)


def mark_done(store: Store, digest: str) -> None:
    """Create the marker of a finished task. It is empty, so overwriting it is harmless."""
    store.objects.put(done_key(digest), b"")


def done(store: Store) -> set[str]:
    """Return the digests of all finished tasks, by one listing."""
    return {stat.key.rpartition("/")[2] for stat in store.objects.list(DONE)}


def record_failure(store: Store, lease: Lease, code: int, message: str, details: Mapping[str, Any]) -> None:
    """Write the reason of a failure to the attempt's folder, for the status and the user."""
    body = {
        "digest": lease.body.digest, "attempt": lease.number, "code": code, "message": message,
        "at": store.clock().isoformat(), "details": dict(details),
    }  # fmt: skip
    store.objects.put(lease.key("failure.json"), json.dumps(body, indent=1, default=str).encode())


def read_failure(store: Store, key: str) -> dict[str, Any] | None:
    """Return the reason that `record_failure` wrote to `attempt_key(work_root, number, "failure.json")`; None if there is none."""
    try:
        body: dict[str, Any] = json.loads(store.objects.get(key))
    except (KeyMissing, ValueError):
        return None
    return body
