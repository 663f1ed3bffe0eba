"""`python -m orchestrator.tracking.cluster`: mirror every study of a namespace to MLflow.

Runs in a pod (manifests/mlflow) that is the only writer of its MLflow. Lists the studies of the namespace and reads their stores; a
deleted study keeps its experiment.
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
from orchestrator.tracking.follow import summary_of
from orchestrator.tracking.mirror import Mirror


def main() -> int:
    from orchestrator.cluster.kubernetes_api import connect

    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking.cluster", description="Mirror a namespace's studies.")
    parser.add_argument("--namespace", default="", help="namespace to mirror (default: the pod's own)")
    parser.add_argument("--uri", required=True, help="address of the MLflow server")
    parser.add_argument("--interval", type=float, default=15, help="seconds between two updates (default %(default)s)")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        mirrors = NamespaceMirror(connect(given.namespace), given.uri, lambda line: print(line, flush=True))
    except ScalingStudyError as problem:
        print(f"mirror: {problem}", file=sys.stderr)
        return 1
    while True:
        mirrors.update()
        if stop.wait(given.interval):
            return 0


@dataclass
class _StudyMirror:
    """A study's mirror. `version`: of the study in its store. `is_complete`: every task of that version is done and mirrored."""

    store: Store
    version: int = 0
    mirror: Mirror | None = None
    is_complete: bool = False


@dataclass
class NamespaceMirror:
    """The mirrors of all accepted studies of a namespace.

    A problem is reported once and retried at the next update.
    """

    cluster: Cluster
    uri: str
    say: Callable[[str], None]
    open: Callable[[str], Store] = open_store
    _studies: dict[tuple[str, str], _StudyMirror] = field(default_factory=dict)
    _reported: dict[str, str] = field(default_factory=dict)

    def update(self) -> None:
        """Update the mirrors of all studies once."""
        try:
            found = self.cluster.list("scalingstudies").items
        except ScalingStudyError as problem:
            self._report("the cluster", str(problem))
            return
        self._reported.pop("the cluster", None)
        for study in found:
            self._update_study(study)

    def _update_study(self, study: Document) -> None:
        name, address = study["metadata"]["name"], study["spec"]["store"]
        if why := why_not_accepted(study):
            # the store of a rejected study may not be allowed in the namespace
            self._report(name, f"not mirrored, because it is not accepted ({why})")
            return
        try:
            if (name, address) not in self._studies:
                self._studies[name, address] = _StudyMirror(self.open(address))
            self._bring_up_to_date(name, self._studies[name, address])
            self._reported.pop(name, None)
        except ScalingStudyError as problem:
            self._studies.pop((name, address), None)
            self._report(name, str(problem))

    def _bring_up_to_date(self, name: str, kept: _StudyMirror) -> None:
        newest = sum(1 for _ in kept.store.objects.list(study_prefix(name)))
        if newest != kept.version:
            planned = current(kept.store, name)
            kept.mirror = Mirror(kept.store, planned[1], self.uri) if planned else None
            kept.version, kept.is_complete = newest, False
        if kept.mirror is None or kept.is_complete:
            return
        change = kept.mirror.bring_up_to_date()
        kept.is_complete = not change.open and not change.problems
        if change.changed or change.problems:
            self.say(f"{name}: {summary_of(change)}")

    def _report(self, what: str, problem: str) -> None:
        if self._reported.get(what) != problem:
            self.say(f"{what}: {problem}; retrying")
            self._reported[what] = problem


if __name__ == "__main__":
    sys.exit(main())
