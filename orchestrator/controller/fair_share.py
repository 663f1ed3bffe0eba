"""Limits that the studies of a namespace share: GPU-hours and the number of concurrent Workflows.

`study_reconciler` reads and updates it at every reconcile. It is kept in memory only: after a restart, usage is read from the studies'
statuses, and the queue for Workflows starts empty.
"""

from collections.abc import Mapping
from datetime import datetime

from orchestrator.cluster.port import Document
from orchestrator.reconcile.account import Account


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

    def promised_to_others(self, name: str, studies: Mapping[str, Document]) -> float:
        """Return the GPU-seconds promised to all studies except `name`."""
        return sum(self._usage_of(other, body)[1] for other, body in studies.items() if other != name)

    def namespace_usage(self, name: str, account: Account, studies: Mapping[str, Document], spent: float) -> float:
        """Return the GPU-seconds that count against the namespace's cap: those of the account, and those it does not contain yet.

        A study that ran before the account existed is missing in it until it is reconciled. `spent`: GPU-seconds of study `name`.
        """
        if account.resets:
            # all of it is in the account, which a reset excludes
            return account.used
        billed = account.billed_by_study()
        used = {other: self._usage_of(other, body)[0] for other, body in studies.items()} | {name: spent}
        return account.used + sum(max(0.0, used[other] - billed[body["metadata"]["uid"]]) for other, body in studies.items())

    def _usage_of(self, name: str, body: Document) -> tuple[float, float]:
        """Return the GPU-seconds used by, and promised to, a study; from its status if this process has not reconciled it yet."""
        return self._usage.get(name) or _usage_in_status(body)

    def set_usage(self, name: str, used: float, promised: float) -> None:
        """Record the GPU-seconds of a study's attempts and the estimated remaining GPU-seconds of its tasks in flight."""
        self._usage[name] = used, promised

    # The queue for Workflows

    def dequeue(self, name: str, now: datetime) -> datetime:
        """Remove a study from the queue and return the time from which it waited; `now` if it was not queued.

        A study is not queued while it is reconciled, so that a failing reconcile never blocks the others.
        """
        return self._queued_since.pop(name, now)

    def enqueue(self, name: str, since: datetime) -> None:
        """Queue a study. `since`: the time from which it has waited; the queue is sorted by it."""
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
