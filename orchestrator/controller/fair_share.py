"""Limits that the studies of a namespace share: GPU-hours and the number of concurrent Workflows.

`study_reconciler` reads and updates it at every reconcile. It is kept in memory only: after a restart, usage is read from the studies'
statuses, and the queue for Workflows starts empty.
"""

from collections.abc import Mapping
from datetime import datetime

from orchestrator.cluster.port import Document


class FairShare:
    """GPU-seconds of each study, and the FIFO queue of studies that wait to submit a Workflow. Studies are identified by name."""

    def __init__(self) -> None:
        self._usage: dict[str, tuple[float, float]] = {}
        self._queued_since: dict[str, datetime] = {}

    def forget(self, name: str) -> None:
        """Remove a deleted study and its usage."""
        self._usage.pop(name, None)
        self._queued_since.pop(name, None)

    # GPU-seconds

    def usage_of_others(self, name: str, studies: Mapping[str, Document]) -> tuple[float, float]:
        """Return the GPU-seconds used by, and promised to, all studies but `name`. The status is used for a study not reconciled yet."""
        usage = [self._usage.get(other) or _usage_in_status(body) for other, body in studies.items() if other != name]
        return sum(used for used, _ in usage), sum(promised for _, promised in usage)

    def set_usage(self, name: str, used: float, promised: float) -> None:
        """Record the GPU-seconds of a study's attempts and the estimated remaining GPU-seconds of its tasks in flight."""
        self._usage[name] = used, promised

    # The queue for Workflows

    def dequeue(self, name: str, now: datetime) -> datetime:
        """Remove a study from the queue and return since when it was queued, `now` if it was not.

        A study is not queued while it is reconciled, so that a failing reconcile never blocks the others.
        """
        return self._queued_since.pop(name, now)

    def enqueue(self, name: str, since: datetime) -> None:
        """Queue a study, by the time since which it has waited."""
        self._queued_since[name] = since

    def count_ahead(self, since: datetime) -> int:
        """Return the number of studies queued before a time."""
        return sum(other < since for other in self._queued_since.values())

    def is_first(self, name: str) -> bool:
        """Return whether the study is the first in the queue."""
        return name in self._queued_since and self._queued_since[name] == min(self._queued_since.values())


def _usage_in_status(body: Document) -> tuple[float, float]:
    hours = (body.get("status") or {}).get("gpuHours") or {}
    return float(hours.get("used") or 0) * 3600, float(hours.get("promised") or 0) * 3600
