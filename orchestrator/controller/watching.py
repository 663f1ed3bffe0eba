"""Watches of the API: a change makes a study due earlier. Decisions never depend on them, so a lost watch only adds delay."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.cluster.port import Cluster, Document, Kind
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, LABEL_STUDY
from orchestrator.controller.snapshot import OURS
from orchestrator.errors import ClusterError, Expired

LOG: Final = logging.getLogger(__name__)

WATCHED: Final[tuple[Kind, ...]] = ("scalingstudies", "workflows", "pods")
RETRY_SECONDS: Final = 2.0


class Watches:
    """One thread per kind. `wake`: called with the name of a changed study; `relist`: called when a resource version has expired."""

    def __init__(
        self,
        cluster: Cluster,
        stop: threading.Event,
        wake: Callable[[str], None],
        relist: Callable[[], None],
        kinds: tuple[Kind, ...] = WATCHED,
    ) -> None:
        self._cluster = cluster
        self._stop = stop
        self._wake = wake
        self._relist = relist
        self._kinds = kinds
        self._versions: dict[Kind, str] = {}
        self._versions_changed = threading.Condition()
        self._specs: dict[str, tuple[object, ...]] = {}

    def start(self) -> None:
        for kind in self._kinds:
            threading.Thread(target=self._run, args=(kind,), name=f"watch {kind}", daemon=True).start()

    def start_from(self, versions: Mapping[Kind, str]) -> None:
        """Set the resource versions of a listing as the start of watches that have none."""
        with self._versions_changed:
            for kind, version in versions.items():
                self._versions.setdefault(kind, version)
            self._versions_changed.notify_all()

    def watch_once(self, kind: Kind) -> None:
        """Run one watch to its end, from the last known resource version. Raises ClusterError."""
        labels = None if kind == "scalingstudies" else OURS
        try:
            for change, body in self._cluster.watch(kind, self._versions[kind], labels):
                self._versions[kind] = body["metadata"]["resourceVersion"]
                if self._stop.is_set():
                    return
                if change != "BOOKMARK" and (kind != "scalingstudies" or self._has_changed(body)):
                    self._wake(_study_of(kind, body))
        except Expired:
            with self._versions_changed:
                del self._versions[kind]
            self._relist()

    def _run(self, kind: Kind) -> None:
        while not self._stop.is_set():
            with self._versions_changed:
                if kind not in self._versions:
                    self._versions_changed.wait(RETRY_SECONDS)
                    continue
            try:
                self.watch_once(kind)
            except ClusterError as problem:
                LOG.info("watch of %s: %s", kind, problem)
                self._stop.wait(RETRY_SECONDS)

    def _has_changed(self, body: Document) -> bool:
        """Return whether more than the status has changed; the controller itself writes the status."""
        metadata = body["metadata"]
        annotations = metadata.get("annotations") or {}
        spec = (metadata["uid"], metadata.get("generation"), annotations.get(ANNOTATION_RETRY), "deletionTimestamp" in metadata)
        known = self._specs.get(metadata["name"])
        self._specs[metadata["name"]] = spec
        return spec != known


def _study_of(kind: Kind, body: Document) -> str:
    if kind == "scalingstudies":
        return str(body["metadata"]["name"])
    return str((body["metadata"].get("labels") or {}).get(LABEL_STUDY, ""))
