"""The object storage interface of the store, and the creation of a small object exactly once.

`bucket` implements `Objects` for folders and clouds, `memory` for tests; all other modules of this package take a `Store`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from orchestrator.errors import KeyExists, KeyMissing, StoreUnavailable

# Exhausted only if a rival creates and quarantines the object again and again.
_CREATE_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Stat:
    """Metadata of an object. `modified` is by the store's clock."""

    key: str
    size: int
    modified: datetime
    etag: str


class Objects(Protocol):
    """Bytes by key. Keys are relative to the store's root, with `/` between segments. Writes are atomic.

    Every method raises StoreUnavailable if the store is unreachable, full or denies access; a write may then have taken effect or not.
    """

    def get(self, key: str) -> bytes:
        """Return the object's bytes. Raises KeyMissing."""

    def put(self, key: str, body: bytes) -> None:
        """Write or overwrite the object."""

    def create(self, key: str, body: bytes) -> None:
        """Write the object only if the key is free; for small bodies. Raises KeyExists, also after the client's own successful retry."""

    def put_file(self, key: str, path: Path) -> None:
        """Write or overwrite the object from a local file, in parts if it is large."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy the object to a local file, atomically. Raises KeyMissing."""

    def stat(self, key: str) -> Stat:
        """Return the object's metadata. Raises KeyMissing."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield every object in the folder `prefix`, in no particular order; "" for all. Staging files are excluded."""

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""

    def local_path(self, key: str) -> Path | None:
        """Return the object's read-only file on this machine; None if the store is not a folder."""


def utc_now() -> datetime:
    """Return the time of this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Store:
    """A store. `url`: as passed to `open_store`. `clock`: the time for leases and other timestamps."""

    objects: Objects
    url: str
    clock: Callable[[], datetime] = utc_now


def create_once(objects: Objects, key: str, body: bytes) -> bytes:
    """Create `key` unless it exists, and return its body: equal to `body` exactly if this call won, even if the reply was lost.

    Bodies contain a nonce, so equal bytes identify the caller's own write. Raises StoreUnavailable.
    """
    for is_last in [False] * (_CREATE_TRIES - 1) + [True]:
        trouble: StoreUnavailable | None = None
        try:
            objects.create(key, body)
            return body
        except KeyExists:
            pass
        except StoreUnavailable as problem:
            trouble = problem
        try:
            return objects.get(key)
        except KeyMissing:
            if trouble is not None and is_last:
                raise trouble from None
    raise StoreUnavailable(f"{key}: could neither create nor read the object in {_CREATE_TRIES} tries; check that the store is consistent")
