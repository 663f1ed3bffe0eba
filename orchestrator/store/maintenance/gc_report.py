"""The report of the last garbage collection, kept in the store and shown in the status of its studies.

`orchestrator.controller.retention` writes it, the controller reads it. It is informational, so it may be overwritten.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store.addresses import GC_REPORT
from orchestrator.store.documents import parse_model
from orchestrator.store.maintenance.gc import Removal
from orchestrator.store.objects import Store


class GcReport(BaseModel):
    """Result of a garbage collection at `at`: `count` unneeded objects of `size` bytes; `removed`: whether they were deleted."""

    model_config = ConfigDict(frozen=True)
    at: datetime
    count: int
    size: int
    removed: bool


def write_gc_report(store: Store, removals: Iterable[Removal], *, removed: bool) -> GcReport:
    """Write and return the report on the result of `gc`. Raises StoreUnavailable."""
    found = list(removals)
    report = GcReport(at=store.clock(), count=len(found), size=sum(removal.bytes for removal in found), removed=removed)
    store.objects.put(GC_REPORT, report.model_dump_json().encode())
    return report


def read_gc_report(store: Store) -> GcReport | None:
    """Return the newest report, None if there is none or it is damaged: the next collection writes it again. Raises StoreUnavailable."""
    try:
        return parse_model(GcReport, store.objects.get(GC_REPORT), GC_REPORT, "a report of a garbage collection")
    except (KeyMissing, Damaged):
        return None
