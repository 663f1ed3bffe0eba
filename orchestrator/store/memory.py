"""The in-memory store, for tests: behaves like a folder store, with fault injection.

`InMemoryObjects` is public, so that tests of the trainer, tracking and the command line need no patching. A fault is a rule that applies
to the next operations with a matching name and key, a given number of times.
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

from orchestrator.errors import KeyExists, KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.objects import Stat, Store, utc_now

T = TypeVar("T")
When: TypeAlias = Literal["before", "after", "delay", "lost reply"]


@dataclass
class Fault:
    """A fault of operations `name` (get, put, create, fetch, stat, list, delete; * for all) on keys that match `pattern`.

    `before`: fails without taking effect. `after`: takes effect, then fails. `delay`: takes `seconds` longer. `lost reply`: a create takes
    effect and raises KeyExists, as after the client's own retry. `skip`: matching operations to leave alone first. `times`: how often the
    fault occurs, -1 for always. `error` builds the exception from a message.
    """

    name: str
    pattern: str
    when: When
    times: int = 1
    message: str = "a fault of the test"
    seconds: float = 0.0
    skip: int = 0
    error: Callable[[str], BaseException] = StoreUnavailable

    def applies(self, name: str, key: str) -> bool:
        """Return whether the fault applies to this operation, and count it."""
        if self.times == 0 or not fnmatchcase(name, self.name) or not fnmatchcase(key, self.pattern):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class InMemoryObjects:
    """Objects in a dictionary. `faults` can be extended at any time; `log` is the list of (operation, key) so far."""

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
            raise StoreError(f"{key!r} is not a valid store key")
        hits = [fault for fault in self.faults if fault.applies(name, key)]
        for fault in hits:
            if fault.when == "delay":
                time.sleep(fault.seconds)
            elif fault.when == "before":
                raise fault.error(f"the in-memory store could not {name} {key}: {fault.message}")
        with self._lock:
            self.log.append((name, key))
            result = act()
        for fault in hits:
            if fault.when == "after":
                raise fault.error(f"the in-memory store could not {name} {key}: {fault.message}")
            if fault.when == "lost reply":
                raise KeyExists(f"the in-memory store already has {key}")
        return result

    def _found(self, key: str) -> tuple[bytes, datetime]:
        if key not in self._bodies:
            raise KeyMissing(f"the in-memory store has no {key}")
        return self._bodies[key]

    def _write(self, key: str, body: bytes) -> None:
        self._bodies[key] = (bytes(body), self._clock())

    def _write_new(self, key: str, body: bytes) -> None:
        if key in self._bodies:
            raise KeyExists(f"the in-memory store already has {key}")
        self._write(key, body)

    def _stat(self, key: str) -> Stat:
        body, modified = self._found(key)
        return Stat(key, len(body), modified, sha256(body).hexdigest()[:16])


def clock_off_by(offset: timedelta, clock: Callable[[], datetime] = utc_now) -> Callable[[], datetime]:
    """Return a clock that is wrong by `offset`."""
    return lambda: clock() + offset


def in_memory_store(
    faults: list[Fault] | None = None, *, clock: Callable[[], datetime] = utc_now, objects: InMemoryObjects | None = None
) -> Store:
    """Return an in-memory store. To simulate a second machine with its own clock, pass the `objects` of the first store."""
    return Store(objects or InMemoryObjects(faults, clock), "memory://", clock)


_named: dict[str, InMemoryObjects] = {}


def named_memory(name: str) -> InMemoryObjects:
    """Return the objects of `memory://NAME` in this process; without a name, new ones."""
    return _named.setdefault(name, InMemoryObjects()) if name else InMemoryObjects()
