"""Events on studies: each told once, for a while, and none lost because the API was away.

`passes` hands it what a decision has to tell. A new controller tells again what it cannot know was told; Kubernetes counts equal events.
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

# The same thing is told again only after so long: its event is still there
TELL_AGAIN: Final = timedelta(minutes=10)
# So many events of a study wait for an API that is away
MOST_WAITING: Final = 100


@dataclass(slots=True)
class _OfStudy:
    told: dict[StudyEvent, datetime] = field(default_factory=dict)
    waiting: list[StudyEvent] = field(default_factory=list)


class News:
    """All studies of a namespace, by uid."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._studies: dict[str, _OfStudy] = {}

    def forget_all_but(self, uids: set[str]) -> None:
        self._studies = {uid: known for uid, known in self._studies.items() if uid in uids}

    def tell(self, body: Document, events: Sequence[StudyEvent]) -> None:
        """Events are for people: one that cannot be told holds nothing up, and is told when the API is back."""
        now, study = self._clock(), StudyReference(body["metadata"]["name"], body["metadata"]["uid"])
        known = self._studies.setdefault(study.uid, _OfStudy())
        known.told = {event: at for event, at in known.told.items() if now - at < TELL_AGAIN}
        new = [event for event in dict.fromkeys((*known.waiting, *events)) if event not in known.told]
        known.waiting = []
        for number, event in enumerate(new):
            try:
                self._cluster.event(study, event.reason, event.message, is_warning=event.is_warning)
            except ClusterUnavailable as problem:
                known.waiting = new[number:][:MOST_WAITING]
                LOG.warning("study %s: %d events have to wait: %s", study.name, len(known.waiting), problem)
                return
            except Refused as problem:
                LOG.warning("study %s: event %s: %s", study.name, event.reason, problem)
            known.told[event] = now
