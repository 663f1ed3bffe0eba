"""`python -m orchestrator.tracking.cluster`: keeps MLflow up to date with every study of a namespace.

A pod runs it (manifests/mlflow), the only writer of its MLflow. It asks the cluster which studies there are and reads the rest from their
stores; a study that is deleted keeps its experiment.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.cluster.port import Cluster, Document
from orchestrator.cluster.study_object import why_not_accepted
from orchestrator.errors import ScalingStudyError
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import study_prefix
from orchestrator.store.plans import current
from orchestrator.tracking.follow import told
from orchestrator.tracking.mirror import Mirror


def main() -> int:
    from orchestrator.cluster.kubernetes_api import connect

    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking.cluster", description="Mirror a namespace's studies.")
    parser.add_argument("--namespace", default="", help="by default the pod's own")
    parser.add_argument("--uri", required=True, help="MLflow's address")
    parser.add_argument("--interval", type=float, default=15, help="seconds between two looks (default %(default)s)")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        keeper = Keeper(connect(given.namespace), given.uri, lambda line: print(line, flush=True))
    except ScalingStudyError as problem:
        print(f"mirror: {problem}", file=sys.stderr)
        return 1
    while True:
        keeper.look()
        if stop.wait(given.interval):
            return 0


@dataclass
class _Kept:
    """A study's mirror. `version`: of the study in its store. `is_whole`: every task of that version is done and mirrored."""

    store: Store
    version: int = 0
    mirror: Mirror | None = None
    is_whole: bool = False


@dataclass
class Keeper:
    """Every accepted study of a namespace and what of it is in MLflow.

    What cannot be reached is told, once, and tried again at the next look.
    """

    cluster: Cluster
    uri: str
    say: Callable[[str], None]
    open: Callable[[str], Store] = open_store
    _studies: dict[tuple[str, str], _Kept] = field(default_factory=dict)
    _complaints: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """One look at the cluster and at all studies."""
        try:
            found = self.cluster.list("scalingstudies").items
        except ScalingStudyError as problem:
            self._complain("the cluster", str(problem))
            return
        self._complaints.pop("the cluster", None)
        for study in found:
            self._look_at(study)

    def _look_at(self, study: Document) -> None:
        name, address = study["metadata"]["name"], study["spec"]["store"]
        if why := why_not_accepted(study):
            # it may be a store that the namespace does not allow
            self._complain(name, f"not mirrored, since it is not accepted ({why})")
            return
        try:
            if (name, address) not in self._studies:
                self._studies[name, address] = _Kept(self.open(address))
            self._bring_up_to_date(name, self._studies[name, address])
            self._complaints.pop(name, None)
        except ScalingStudyError as problem:
            self._studies.pop((name, address), None)
            self._complain(name, str(problem))

    def _bring_up_to_date(self, name: str, kept: _Kept) -> None:
        newest = sum(1 for _ in kept.store.objects.list(study_prefix(name)))
        if newest != kept.version:
            planned = current(kept.store, name)
            kept.mirror = Mirror(kept.store, planned[1], self.uri) if planned else None
            kept.version, kept.is_whole = newest, False
        if kept.mirror is None or kept.is_whole:
            return
        change = kept.mirror.bring_up_to_date()
        kept.is_whole = not change.open and not change.problems
        if change.changed or change.problems:
            self.say(f"{name}: {told(change)}")

    def _complain(self, what: str, problem: str) -> None:
        if self._complaints.get(what) != problem:
            self.say(f"{what}: {problem}; asking again")
            self._complaints[what] = problem


if __name__ == "__main__":
    sys.exit(main())
