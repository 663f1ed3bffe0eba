"""Keeps a mirror up to date until there is nothing more to do.

A server that is away is asked again later, for ever; the store has everything meanwhile. The command line and the process beside a run
share this loop; they differ in when it ends.
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
from orchestrator.tracking.mirror import Mirror, Pass

_SQLITE: Final = "sqlite:///"
# Seconds after the wish to end: between two tries of a last look that fails, and until it is given up. One that is slow may take longer:
# how long anybody waits for it is their own affair.
PAUSE: Final = 0.5
GIVE_UP: Final = 5.0


class LastTries:
    """The tries of a last look. `what`: since when, for people, such as "the run's end"."""

    def __init__(self, what: str, sleep: Callable[[float], None] = time.sleep, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._sleep = sleep
        self._monotonic = monotonic
        self._since: float | None = None

    def another(self) -> bool:
        """True, as whoever waits for a look says that it is the last; after a pause unless it is the first. Raises TrackingUnavailable."""
        if self._since is None:
            self._since = self._monotonic()
            return True
        self._sleep(PAUSE)
        if self._monotonic() - self._since > GIVE_UP:
            raise TrackingUnavailable(f"given up {GIVE_UP:.0f} s after {self._what}")
        return True


@contextmanager
def sole_writer(uri: str) -> Iterator[None]:
    """While it lasts nobody else mirrors into this sqlite file: two would both begin runs that neither sees of the other.

    Raises TrackingUnavailable while another does. A server's own database is the server's affair.
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


def mirror_once(store: Store, study: str, uri: str, artifacts: Path | None) -> Pass:
    """Makes or repairs the whole mirror of the study's newest version. Raises TrackingUnavailable, KeyMissing, MissingExtra."""
    with sole_writer(uri):
        return _open(store, study, uri, artifacts).bring_up_to_date()


def follow(
    store: Store, study: str, uri: str, artifacts: Path | None, wait: Callable[[], bool], say: Callable[[str], None], *, until_done: bool
) -> bool:  # fmt: skip
    """Looks again and again; whether the last look was whole.

    `wait` sleeps until the next look and says whether it is to be the last one; while MLflow is away, a last look is repeated, until `wait`
    raises TrackingUnavailable (`LastTries`).
    `until_done`: end by oneself when every task of the plan is done and mirrored.
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
                say(f"{problem}; asked to stop, so this is left to whoever mirrors")
                return False
            say(f"{problem}; asking again")
            try:
                last = wait() or last
            except TrackingUnavailable as end:
                raise TrackingUnavailable(f"{problem}; {end}") from problem
            continue
        if change.changed or change.problems:
            say(told(change))
        if last or (until_done and not change.open):
            return not change.problems
        last = wait()


def told(change: Pass) -> str:
    """A look in one line, and a line for every problem."""
    parts = [f"{change.runs} runs begun", f"{change.points} points", f"{change.sealed} finished", f"{change.open} tasks open"]
    if change.replaced:
        parts.append(f"{change.replaced} replaced")
    return "\n".join([", ".join(parts), *change.problems])


def _open(store: Store, study: str, uri: str, artifacts: Path | None) -> Mirror:
    found = current(store, study)
    if found is None:
        raise KeyMissing(f"{store.url} has no study called {study}; `scaling-study run` puts it there")
    return Mirror(store, found[1], uri, artifacts)
