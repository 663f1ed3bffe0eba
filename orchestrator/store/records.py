"""Tasks and what they leave: a record is created once, and the first one stands for ever.

The trainer publishes; local run, controller, tracking and report read. `done/` is a marker for quick listings, made after the record and
repaired by whoever finds it missing.
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
from orchestrator.store.quarantine import move_record_aside
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
    """Make the task done; the record that stands: ours, or the one of whoever was first.

    The caller holds the lease: a record that stands but cannot be read is moved aside, and ours takes its place.
    """
    body, key = record.to_bytes(), record_key(record.digest)
    stands = create_once(store.objects, key, body)
    try:
        standing = _checked(record.digest, stands)
    except Damaged as problem:
        move_record_aside(store, record.digest, str(problem))
        standing = _checked(record.digest, create_once(store.objects, key, body))
    mark_done(store, record.digest)
    return standing


def read_record(store: Store, digest: str) -> Record | None:
    """The record of a task, None when it is not done. A missing marker in `done/` is made again. Raises Damaged."""
    record = find_record(store, digest)
    if record is not None:
        _repair_marker(store, digest)
    return record


def find_record(store: Store, digest: str) -> Record | None:
    """As `read_record`, without repairing anything."""
    try:
        body = store.objects.get(record_key(digest))
    except KeyMissing:
        return None
    return _checked(digest, body)


def _checked(digest: str, body: bytes) -> Record:
    key = record_key(digest)
    advice = "`scaling-study store verify --repair` moves it aside, and the next run does the task again"
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
        with suppress(StoreUnavailable):  # a report can be read from a store that is full or read-only
            mark_done(store, digest)


def mark_done(store: Store, digest: str) -> None:
    """Create the marker. It has no content, so overwriting is harmless."""
    store.objects.put(done_key(digest), b"")


def done(store: Store) -> set[str]:
    """Digests of every task that is done, by one listing."""
    return {stat.key.rpartition("/")[2] for stat in store.objects.list(DONE)}


def record_failure(store: Store, lease: Lease, code: int, message: str, details: Mapping[str, Any]) -> None:
    """Leave the reason of a failure in the attempt's folder, for people and for status."""
    body = {
        "digest": lease.body.digest, "attempt": lease.number, "code": code, "message": message,
        "at": store.clock().isoformat(), "details": dict(details),
    }  # fmt: skip
    store.objects.put(lease.key("failure.json"), json.dumps(body, indent=1, default=str).encode())


def read_failure(store: Store, key: str) -> dict[str, Any] | None:
    """What `record_failure` left under `attempt_key(work_root, number, "failure.json")`; None when it left nothing."""
    try:
        body: dict[str, Any] = json.loads(store.objects.get(key))
    except (KeyMissing, ValueError):
        return None
    return body
