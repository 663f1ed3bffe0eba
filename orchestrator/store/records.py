"""Records of finished tasks: created once and never overwritten.

The trainer publishes records; the local run, the controller, tracking and the report read them. A marker in `done/` makes finished tasks
quick to list. It is created after the record, and created again by any reader that finds it missing. It holds the SHA-256 of the record, so
that an edit of the record is detected; markers written by older versions are empty.

A marker alone does not prove that a task is done: the local run, the controller, the status and the report also read the record, once
(`IntactRecords`).
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.record import read_record as parse_record
from orchestrator.errors import ContractError, Damaged, KeyExists, KeyMissing, StoreUnavailable
from orchestrator.store.addresses import DONE, done_key, record_key
from orchestrator.store.documents import parse_object
from orchestrator.store.leases import Lease
from orchestrator.store.objects import Store, create_once
from orchestrator.store.quarantine import quarantine_record
from orchestrator.store.tasks import create_task, read_task

__all__ = [
    "IntactRecords",
    "create_task",
    "discard_marker_without_record",
    "done",
    "find_record",
    "finished_tasks",
    "is_marker",
    "mark_done",
    "publish_record",
    "read_failure",
    "read_marker",
    "read_record",
    "read_task",
    "record_failure",
]

# A folder answers in microseconds, a bucket in tens of milliseconds
_READ_THREADS: Final = 32
_HASH: Final = re.compile(rb"[0-9a-f]{64}")
_ADVICE: Final = "the next run quarantines it and repeats the task"


def publish_record(store: Store, record: Record) -> Record:
    """Publish a task's record, and return the published one: this one, or an earlier one of the same task.

    The caller must hold the lease: an earlier record that is damaged is quarantined and replaced.
    """
    body, key = record.to_bytes(), record_key(record.digest)
    try:
        published = create_once(store.objects, key, body)
        found = _checked(record.digest, published)
        if published != body:
            _check_marker(record.digest, published, read_marker(store, record.digest))
    except Damaged as problem:
        quarantine_record(store, record.digest, str(problem))
        published = create_once(store.objects, key, body)
        found = _checked(record.digest, published)
    mark_done(store, record.digest, published)
    return found


def read_record(store: Store, digest: str) -> Record | None:
    """Return the record of a task, None if it is not done. Restores a missing or invalid marker in `done/`. Raises Damaged."""
    return _read(store, digest, restores=True)


def find_record(store: Store, digest: str) -> Record | None:
    """Return the record of a task, None if it is not done, without restoring its marker. Raises Damaged."""
    return _read(store, digest, restores=False)


def _read(store: Store, digest: str, *, restores: bool) -> Record | None:
    body = _body(store, digest)
    return None if body is None else _record(store, digest, body, read_marker(store, digest), restores=restores)


def _body(store: Store, digest: str) -> bytes | None:
    try:
        return store.objects.get(record_key(digest))
    except KeyMissing:
        return None


def _record(store: Store, digest: str, body: bytes, marker: bytes | None, *, restores: bool) -> Record:
    record = _checked(digest, body)
    if restores and not is_marker(marker):
        with suppress(StoreUnavailable):  # a full or read-only store can still be read
            _restore_marker(store, digest, body, marker)
    _check_marker(digest, body, marker)
    return record


def _check_marker(digest: str, record: bytes, marker: bytes | None) -> None:
    """Raise Damaged if the marker holds the SHA-256 of another record."""
    if marker and is_marker(marker) and marker != _marker_of(record):
        raise Damaged(f"{record_key(digest)} has changed since it was published: done/ holds another SHA-256; {_ADVICE}")


def _is_time(text: str) -> bool:
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def read_marker(store: Store, digest: str) -> bytes | None:
    """Return the content of a task's marker in `done/`; None if there is no file."""
    try:
        return store.objects.get(done_key(digest))
    except KeyMissing:
        return None
    except Damaged:
        return b"a folder or a link"


def is_marker(content: bytes | None) -> bool:
    """Return whether a marker has this content: a SHA-256, or nothing, as older versions wrote."""
    return content is not None and (not content or _HASH.fullmatch(content) is not None)


def _marker_of(record: bytes) -> bytes:
    return hashlib.sha256(record).hexdigest().encode()


def _restore_marker(store: Store, digest: str, record: bytes, found: bytes | None) -> None:
    """Write the marker of a record. A missing one is only created: the holder of the lease may write that of a later record."""
    if found is not None:
        mark_done(store, digest, record)
        return
    with suppress(KeyExists):
        store.objects.create(done_key(digest), _marker_of(record))


def _checked(digest: str, body: bytes) -> Record:
    key = record_key(digest)
    try:
        record = parse_record(body, key)
        found = digest_of(record.identity)
    except ContractError as problem:
        raise Damaged(f"{problem}; {_ADVICE}") from problem
    if not all(map(_is_time, (time for attempt in record.attempts for time in (attempt.start, attempt.end)))):
        raise Damaged(f"{key} holds an attempt with a start or end that is not a time; {_ADVICE}")
    if not record.digest == found == digest:
        raise Damaged(f"{key} is the record of another task, {found[:12]}...; {_ADVICE}")
    return record


def mark_done(store: Store, digest: str, record: bytes) -> None:
    """Write the marker of a finished task: the SHA-256 of its record's bytes."""
    store.objects.put(done_key(digest), _marker_of(record))


def discard_marker_without_record(store: Store, digest: str) -> None:
    """Delete the marker of a task whose record is missing. The caller must hold the lease and have found no record."""
    if read_marker(store, digest) is not None:
        quarantine_record(store, digest, f"{record_key(digest)} is missing")


def done(store: Store) -> set[str]:
    """Return the digests of all tasks that are marked as finished, by one listing. `IntactRecords` checks their records."""
    return {stat.key.removeprefix(f"{DONE}/") for stat in store.objects.list(DONE)}


def finished_tasks(store: Store, digests: Iterable[str]) -> set[str]:
    """Return those of the tasks that are marked as finished and have an intact record."""
    wanted, records = set(digests), IntactRecords(store)
    return records.finished(wanted & done(store))


class IntactRecords:
    """Finds the tasks with an intact record. Each intact record is read once, a damaged or missing one at every call. Not thread-safe.

    `damaged`: digest -> reason, for tasks marked as finished whose record is damaged or missing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._intact: set[str] = set()
        self.damaged: dict[str, str] = {}

    def forget_others(self, marked: Collection[str]) -> None:
        """Forget the tasks that are no longer marked as finished: their records were quarantined."""
        self._intact.intersection_update(marked)
        self.damaged = {digest: why for digest, why in self.damaged.items() if digest in marked}

    def finished(self, marked: Iterable[str]) -> set[str]:
        """Return those of the tasks marked as finished that have an intact record. Raises StoreUnavailable."""
        asked = set(marked)
        unknown = sorted(asked - self._intact)
        if unknown:
            with ThreadPoolExecutor(min(_READ_THREADS, len(unknown))) as threads:
                for digest, why in zip(unknown, threads.map(self._damage, unknown), strict=True):
                    if why:
                        self.damaged[digest] = why
                    else:
                        self._intact.add(digest)
                        self.damaged.pop(digest, None)
        return asked & self._intact

    def _damage(self, digest: str) -> str:
        try:
            body = _body(self._store, digest)
            if body is None:
                return f"{record_key(digest)} is missing, although {done_key(digest)} marks the task as done"
            marker = read_marker(self._store, digest)
            # a record with the hash that its writer published need not be parsed
            if marker != _marker_of(body) or digest.encode() not in body:
                _record(self._store, digest, body, marker, restores=True)
        except Damaged as problem:
            return str(problem)
        return ""


def record_failure(store: Store, lease: Lease, code: int, message: str, details: Mapping[str, Any]) -> None:
    """Write the reason of a failure to the attempt's folder, for the status and the user."""
    body = {
        "digest": lease.body.digest, "attempt": lease.number, "code": code, "message": message,
        "at": store.clock().isoformat(), "details": dict(details),
    }  # fmt: skip
    store.objects.put(lease.key("failure.json"), json.dumps(body, indent=1, default=str).encode())


def read_failure(store: Store, key: str) -> dict[str, Any] | None:
    """Return the reason that `record_failure` wrote to `attempt_key(work_root, number, "failure.json")`; None if there is none to read."""
    try:
        return parse_object(store.objects.get(key), key, "the reason of a failure")
    except (KeyMissing, Damaged):
        return None
