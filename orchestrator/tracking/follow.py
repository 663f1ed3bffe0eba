"""Keep a mirror up to date until there is nothing more to do.

An unreachable server is retried without limit; the store keeps all data meanwhile. The command line and the mirror's process of a run share
this loop; they differ in when it ends.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import KeyMissing, StoreUnavailable, TrackingUnavailable
from orchestrator.store import Store
from orchestrator.store.addresses import study_prefix
from orchestrator.store.plans import current
from orchestrator.tracking.mirror import Mirror, MirrorUpdate

_SQLITE: Final = "sqlite:///"
# Seconds after a stop request: pause between two attempts of a failing last update, and limit of all attempts.
PAUSE: Final = 0.5
GIVE_UP: Final = 5.0


class LastAttempts:
    """Limits how long a failing last update is retried. `what`: the event before the first attempt, such as "the run's end"."""

    def __init__(self, what: str, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._sleep = sleep
        self._monotonic = monotonic
        self._since: float | None = None

    def another(self) -> bool:
        """Sleep before every attempt except the first, and return True. Raises TrackingUnavailable after `GIVE_UP` seconds."""
        if self._since is None:
            self._since = self._monotonic()
            return True
        self._sleep(PAUSE)
        if self._monotonic() - self._since > GIVE_UP:
            raise TrackingUnavailable(f"given up {GIVE_UP:.0f} s after {self._what}")
        return True


@contextmanager
def sole_writer(uri: str) -> Iterator[None]:
    """Hold the lock on a local SQLite file: two mirrors at once would create every run twice.

    Raises TrackingUnavailable if another process holds it. Does nothing for a server.
    """
    if not uri.startswith(_SQLITE):
        yield
        return
    lock = Path(uri.removeprefix(_SQLITE) + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        raise TrackingUnavailable(f"{uri} cannot be written: {problem}") from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(descriptor)
        raise TrackingUnavailable(f"another process mirrors to {uri}") from problem
    try:
        yield
    finally:
        os.close(descriptor)


def mirror_once(store: Store, study: str, uri: str, artifacts: Path | None) -> MirrorUpdate:
    """Create or repair the mirror of the study's newest version. Raises TrackingUnavailable, KeyMissing, MissingExtra."""
    with sole_writer(uri):
        return _open(store, study, uri, artifacts).bring_up_to_date()


def follow(
    store: Store, study: str, uri: str, artifacts: Path | None, wait: Callable[[], bool], say: Callable[[str], None], *, until_done: bool
) -> bool:  # fmt: skip
    """Update the mirror repeatedly, and return whether the last update was complete.

    `wait` sleeps until the next update and returns whether that is the last one; a failing last update is repeated until `wait` raises
    TrackingUnavailable (`LastAttempts`). `until_done`: return as soon as every task of the plan is done and mirrored.
    """
    with ExitStack() as lock:
        return _follow(store, study, uri, artifacts, wait, say, until_done, lock)


def _follow(
    store: Store, study: str, uri: str, artifacts: Path | None, wait: Callable[[], bool], say: Callable[[str], None],
    until_done: bool, lock: ExitStack,
) -> bool:  # fmt: skip
    mirror, version, last, is_ours = None, -1, False, False
    while True:
        try:
            if not is_ours:
                lock.enter_context(sole_writer(uri))
                is_ours = True
            newest = sum(1 for _ in store.objects.list(study_prefix(study)))
            if mirror is None or newest != version:
                mirror, version = _open(store, study, uri, artifacts), newest
            change = mirror.bring_up_to_date()
        except (TrackingUnavailable, StoreUnavailable) as problem:
            mirror = None
            if last and not is_ours:
                say(f"{problem}; stopping, since the other process mirrors")
                return False
            say(f"{problem}; retrying")
            try:
                last = wait() or last
            except TrackingUnavailable as end:
                raise TrackingUnavailable(f"{problem}; {end}") from problem
            continue
        if change.changed or change.problems:
            say(summary_of(change))
        if last or (until_done and not change.open):
            return not change.problems
        last = wait()


def summary_of(change: MirrorUpdate) -> str:
    """Return an update in one line, followed by a line for each problem."""
    parts = [f"{change.runs} runs created", f"{change.points} points", f"{change.sealed} finished", f"{change.open} tasks open"]
    if change.replaced:
        parts.append(f"{change.replaced} replaced")
    return "\n".join([", ".join(parts), *change.problems])


def _open(store: Store, study: str, uri: str, artifacts: Path | None) -> Mirror:
    found = current(store, study)
    if found is None:
        raise KeyMissing(f"{store.url} has no study called {study}; `scaling-study run` creates it")
    return Mirror(store, found[1], uri, artifacts)
