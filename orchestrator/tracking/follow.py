"""Keeps a mirror up to date until there is nothing more to do.

A server that is away is asked again later, for ever; the store has everything meanwhile. The command line and the process beside a run
share this loop; they differ in when it ends.
"""

from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import KeyMissing, StoreUnavailable, TrackingUnavailable
from orchestrator.store import Store
from orchestrator.store.addresses import study_prefix
from orchestrator.store.plans import current
from orchestrator.tracking.mirror import Mirror, Pass


def mirror_once(store: Store, study: str, uri: str, artifacts: Path | None) -> Pass:
    """Makes or repairs the whole mirror of the study's newest version. Raises TrackingUnavailable, KeyMissing, MissingExtra."""
    return _open(store, study, uri, artifacts).bring_up_to_date()


def follow(
    store: Store, study: str, uri: str, artifacts: Path | None, wait: Callable[[], bool], say: Callable[[str], None], *, until_done: bool
) -> bool:  # fmt: skip
    """Looks again and again; whether the last look was whole.

    `wait` sleeps until the next look and says whether it is to be the last one; while MLflow is away, a last look is repeated.
    `until_done`: end by oneself when every task of the plan is done and mirrored.
    """
    mirror, version, last = None, -1, False
    while True:
        try:
            newest = sum(1 for _ in store.objects.list(study_prefix(study)))
            if mirror is None or newest != version:
                mirror, version = _open(store, study, uri, artifacts), newest
            change = mirror.bring_up_to_date()
        except (TrackingUnavailable, StoreUnavailable) as problem:
            mirror = None
            say(f"{problem}; asking again")
            last = wait() or last
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
        raise KeyMissing(f"{store.url} has no study called {study}; `scaling-study run` or `plan --freeze` puts it there")
    return Mirror(store, found[1], uri, artifacts)
