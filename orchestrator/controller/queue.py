"""Which studies are to be looked at, and when.

The loop takes what is due, watches and passes add. A study stands in it once, at the earliest time that anybody asked for; one that fails
comes back later and later.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

FIRST_BACKOFF: Final = 1.0
MOST_BACKOFF: Final = 60.0


class WorkQueue:
    """Names of studies by when they are due, in seconds of `clock`. Shared between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._changed = threading.Condition()

    def add(self, name: str, after: float = 0.0) -> None:
        """Look at it in `after` seconds, or earlier if somebody asked for that."""
        with self._changed:
            due = self._clock() + after
            if due < self._due.get(name, float("inf")):
                self._due[name] = due
                self._changed.notify_all()

    def add_failed(self, name: str) -> float:
        """Look at it again after a while, twice as long as after the last failure; the seconds."""
        with self._changed:
            failures = self._failures.get(name, 0)
            self._failures[name] = failures + 1
            after: float = min(FIRST_BACKOFF * 2**failures, MOST_BACKOFF)
            self._due[name] = self._clock() + after
            return after

    def succeeded(self, name: str) -> None:
        """Forget its failures."""
        with self._changed:
            self._failures.pop(name, None)

    def failures(self, name: str) -> int:
        """How often in a row it has failed."""
        with self._changed:
            return self._failures.get(name, 0)

    def forget(self, name: str) -> None:
        with self._changed:
            self._due.pop(name, None)
            self._failures.pop(name, None)

    def take_due(self) -> list[str]:
        """All that is due, the longest due first; they leave the queue."""
        with self._changed:
            now = self._clock()
            names = sorted((name for name, due in self._due.items() if due <= now), key=lambda name: self._due[name])
            for name in names:
                del self._due[name]
            return names

    def wait(self, most: float) -> None:
        """Sleep until something is due, somebody adds, or `most` seconds have gone."""
        with self._changed:
            left = min(self._due.values(), default=float("inf")) - self._clock()
            if left > 0:
                self._changed.wait(min(left, most))

    def wake(self) -> None:
        """End a wait."""
        with self._changed:
            self._changed.notify_all()
