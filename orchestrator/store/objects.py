"""What every room of the store stands on: objects by key, and the one way to create a small one exactly once.

`bucket` adapts folders and clouds to `Objects`, `memory` is the double for tests; everything else here takes a `Store`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from orchestrator.errors import AlreadyThere, KeyMissing, StoreUnavailable

# A rival that creates, then moves aside, again and again would be needed to go through all of them.
_CREATE_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Stat:
    """An object without its bytes. `modified` is the store's clock, not ours."""

    key: str
    size: int
    modified: datetime
    etag: str


class Objects(Protocol):
    """Bytes by key. Keys are relative to the store's root, with `/` between segments; every write is whole or not there at all.

    Each method raises StoreUnavailable when the store is away, full or refuses us; whether a write happened is then not known.
    """

    def get(self, key: str) -> bytes:
        """The whole object. Raises KeyMissing."""

    def put(self, key: str, body: bytes) -> None:
        """Write or overwrite."""

    def create(self, key: str, body: bytes) -> None:
        """Write only if nothing is there; decides every race, for small bodies. Raises AlreadyThere (also when our own first try won)."""

    def put_file(self, key: str, path: Path) -> None:
        """Write or overwrite from a local file, in parts if it is large."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy the object to a local file; `path` is whole or not there. Raises KeyMissing."""

    def stat(self, key: str) -> Stat:
        """Raises KeyMissing."""

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every object under the folder `prefix`, in no order; "" for all. No staging files."""

    def delete(self, key: str) -> None:
        """Delete; nothing happens if it is not there."""

    def local_path(self, key: str) -> Path | None:
        """The object as a file of this machine, to be read only; None when the store is no folder."""


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Store:
    """A place for plans, tasks, leases, checkpoints and records. `url` is as it was opened; `clock` stamps leases and metrics."""

    objects: Objects
    url: str
    clock: Callable[[], datetime] = utc_now


def create_once(objects: Objects, key: str, body: bytes) -> bytes:
    """Create `key` unless it is there, and return the body that stands: ours exactly when we won, even if the reply was lost.

    Bodies carry a nonce, so equal bytes mean our own write. Raises StoreUnavailable when the store cannot be asked.
    """
    for last in [False] * (_CREATE_TRIES - 1) + [True]:
        trouble: StoreUnavailable | None = None
        try:
            objects.create(key, body)
            return body
        except AlreadyThere:
            pass
        except StoreUnavailable as problem:
            trouble = problem
        try:
            return objects.get(key)
        except KeyMissing:
            if trouble is not None and last:
                raise trouble from None
    raise StoreUnavailable(f"{key}: it can neither be created nor read, {_CREATE_TRIES} times; see whether the store is consistent")
