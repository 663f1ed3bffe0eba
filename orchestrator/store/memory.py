"""The store in memory, for tests: the same behaviour as a folder, and faults on demand.

`InMemoryObjects` is public, so that tests of trainer, tracking and command line need no patching. A fault is a rule: it meets the next
operations whose name and key match, a number of times.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from orchestrator.errors import AlreadyThere, KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.objects import Stat, Store, utc_now

T = TypeVar("T")
When: TypeAlias = Literal["before", "after", "delay", "lost reply"]


@dataclass
class Fault:
    """What goes wrong with operations `name` (get, put, create, fetch, stat, list, delete; * for all) on keys like `pattern`.

    `before`: an error, and nothing has happened. `after`: it has happened, and an error says it has not. `delay`: it takes `seconds`
    longer. `lost reply`: a create has happened and says AlreadyThere, as after the client's own retry. `times`: then it is over. `error`
    makes what is raised of a message.
    """

    name: str
    pattern: str
    when: When
    times: int = 1
    message: str = "a fault of the test"
    seconds: float = 0.0
    skip: int = 0
    error: Callable[[str], BaseException] = StoreUnavailable

    def meets(self, name: str, key: str) -> bool:
        """Whether this operation is hit; counts down."""
        if self.times == 0 or not fnmatchcase(name, self.name) or not fnmatchcase(key, self.pattern):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class InMemoryObjects:
    """Objects in a dictionary. `faults` may be added to at any time; `log` holds (operation, key) in the order they came."""

    def __init__(self, faults: list[Fault] | None = None, clock: Callable[[], datetime] = utc_now) -> None:
        self.faults = faults if faults is not None else []
        self.log: list[tuple[str, str]] = []
        self._bodies: dict[str, tuple[bytes, datetime]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        return self._do("get", key, lambda: self._found(key)[0])

    def put(self, key: str, body: bytes) -> None:
        self._do("put", key, lambda: self._write(key, body))

    def create(self, key: str, body: bytes) -> None:
        self._do("create", key, lambda: self._write_new(key, body))

    def put_file(self, key: str, path: Path) -> None:
        self._do("put", key, lambda: self._write(key, path.read_bytes()))

    def fetch(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._do("fetch", key, lambda: self._found(key)[0]))

    def stat(self, key: str) -> Stat:
        return self._do("stat", key, lambda: self._stat(key))

    def list(self, prefix: str) -> Iterator[Stat]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        stats = self._do("list", prefix, lambda: [self._stat(key) for key in sorted(self._bodies) if key.startswith(folder)])
        return iter(stats)

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self._bodies.pop(key, None))

    def local_path(self, key: str) -> Path | None:  # noqa: ARG002
        return None

    def _do(self, name: str, key: str, act: Callable[[], T]) -> T:
        if key and not all(segment.strip(".") for segment in key.rstrip("/").split("/")):
            raise StoreError(f"{key!r} is not a key of a store")
        hits = [fault for fault in self.faults if fault.meets(name, key)]
        for fault in hits:
            if fault.when == "delay":
                time.sleep(fault.seconds)
            elif fault.when == "before":
                raise fault.error(f"the store in memory did not {name} {key}: {fault.message}")
        with self._lock:
            self.log.append((name, key))
            result = act()
        for fault in hits:
            if fault.when == "after":
                raise fault.error(f"the store in memory did not {name} {key}: {fault.message}")
            if fault.when == "lost reply":
                raise AlreadyThere(f"the store in memory has {key} already")
        return result

    def _found(self, key: str) -> tuple[bytes, datetime]:
        if key not in self._bodies:
            raise KeyMissing(f"the store in memory has no {key}")
        return self._bodies[key]

    def _write(self, key: str, body: bytes) -> None:
        self._bodies[key] = (bytes(body), self._clock())

    def _write_new(self, key: str, body: bytes) -> None:
        if key in self._bodies:
            raise AlreadyThere(f"the store in memory has {key} already")
        self._write(key, body)

    def _stat(self, key: str) -> Stat:
        body, modified = self._found(key)
        return Stat(key, len(body), modified, sha256(body).hexdigest()[:16])


def clock_off_by(offset: timedelta, clock: Callable[[], datetime] = utc_now) -> Callable[[], datetime]:
    """A clock that is wrong by `offset`."""
    return lambda: clock() + offset


def in_memory_store(
    faults: list[Fault] | None = None, *, clock: Callable[[], datetime] = utc_now, objects: InMemoryObjects | None = None
) -> Store:
    """A store in memory. Give `objects` of another to see the same objects with another clock, as a second machine does."""
    return Store(objects or InMemoryObjects(faults, clock), "memory://", clock)


_named: dict[str, InMemoryObjects] = {}


def named_memory(name: str) -> InMemoryObjects:
    """The objects behind `memory://NAME` in this process; without a name, new ones."""
    return _named.setdefault(name, InMemoryObjects()) if name else InMemoryObjects()
