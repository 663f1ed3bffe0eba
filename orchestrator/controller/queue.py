"""Work queue of studies, ordered by due time.

The loop takes due studies; watches and reconciles add them. A study is queued at most once, at the earliest requested time. A study that
fails is queued again with exponential backoff.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

# Seconds
INITIAL_BACKOFF: Final = 1.0
MAX_BACKOFF: Final = 60.0


class WorkQueue:
    """Names of studies by due time, in seconds of `clock`. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._changed = threading.Condition()

    def add(self, name: str, after: float = 0.0) -> None:
        """Queue a study in `after` seconds, unless it is due earlier."""
        with self._changed:
            due = self._clock() + after
            if due < self._due.get(name, float("inf")):
                self._due[name] = due
                self._changed.notify_all()

    def add_failed(self, name: str) -> float:
        """Queue a failed study and return the delay in seconds, which doubles with each consecutive failure."""
        with self._changed:
            failures = self._failures.get(name, 0)
            self._failures[name] = failures + 1
            after: float = min(INITIAL_BACKOFF * 2**failures, MAX_BACKOFF)
            self._due[name] = self._clock() + after
            return after

    def reset_backoff(self, name: str) -> None:
        """Reset the failure count of a study that succeeded."""
        with self._changed:
            self._failures.pop(name, None)

    def failures(self, name: str) -> int:
        """Return the number of consecutive failures."""
        with self._changed:
            return self._failures.get(name, 0)

    def forget(self, name: str) -> None:
        """Remove a study and its failure count."""
        with self._changed:
            self._due.pop(name, None)
            self._failures.pop(name, None)

    def take_due(self) -> list[str]:
        """Remove and return all due studies, the earliest first."""
        with self._changed:
            now = self._clock()
            names = sorted((name for name, due in self._due.items() if due <= now), key=lambda name: self._due[name])
            for name in names:
                del self._due[name]
            return names

    def wait(self, timeout: float) -> None:
        """Sleep until a study is due, the queue changes, or `timeout` seconds have passed."""
        with self._changed:
            left = min(self._due.values(), default=float("inf")) - self._clock()
            if left > 0:
                self._changed.wait(min(left, timeout))

    def wake(self) -> None:
        """End a wait early."""
        with self._changed:
            self._changed.notify_all()
