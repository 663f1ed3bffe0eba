"""Kubernetes Events on studies: deduplicated for some minutes, and queued while the API is unreachable.

`study_reconciler` passes the events of each decision. A new controller has no history and may emit an event again; Kubernetes then raises
the count of the existing event.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from orchestrator.cluster.port import Cluster, Document, StudyReference
from orchestrator.errors import ClusterUnavailable, Refused
from orchestrator.reconcile import StudyEvent

LOG: Final = logging.getLogger(__name__)

# An equal event is emitted again only after this time; until then the first one is still listed
REPEAT_AFTER: Final = timedelta(minutes=10)
# Events queued per study while the API is unreachable
MAX_PENDING: Final = 100


@dataclass(slots=True)
class _StudyEvents:
    emitted: dict[StudyEvent, datetime] = field(default_factory=dict)
    pending: list[StudyEvent] = field(default_factory=list)


class EventRecorder:
    """Emits the events of all studies of a namespace; studies are identified by uid."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._studies: dict[str, _StudyEvents] = {}

    def retain(self, uids: set[str]) -> None:
        """Forget all studies except those in `uids`."""
        self._studies = {uid: known for uid, known in self._studies.items() if uid in uids}

    def record(self, body: Document, events: Sequence[StudyEvent]) -> None:
        """Emit pending and new events. Never raises for an unreachable API: the events stay pending."""
        now, study = self._clock(), StudyReference(body["metadata"]["name"], body["metadata"]["uid"])
        known = self._studies.setdefault(study.uid, _StudyEvents())
        known.emitted = {event: at for event, at in known.emitted.items() if now - at < REPEAT_AFTER}
        new = [event for event in dict.fromkeys((*known.pending, *events)) if event not in known.emitted]
        known.pending = []
        for number, event in enumerate(new):
            try:
                self._cluster.event(study, event.reason, event.message, is_warning=event.is_warning)
            except ClusterUnavailable as problem:
                known.pending = new[number:][:MAX_PENDING]
                LOG.warning("study %s: %d events are pending: %s", study.name, len(known.pending), problem)
                return
            except Refused as problem:
                LOG.warning("study %s: event %s was rejected: %s", study.name, event.reason, problem)
            known.emitted[event] = now
