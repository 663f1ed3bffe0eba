"""Maintenance of a store: verify its objects, quarantine damaged ones, and remove unneeded ones.

The command line (`scaling-study store verify`, `store gc`) and the retention job call it.
"""

from orchestrator.store.maintenance.gc import Removal, gc
from orchestrator.store.maintenance.gc_report import GcReport, read_gc_report, write_gc_report
from orchestrator.store.maintenance.notes import Finding
from orchestrator.store.maintenance.repair import quarantine_with_lease
from orchestrator.store.maintenance.verify import verify

__all__ = ["Finding", "GcReport", "Removal", "gc", "quarantine_with_lease", "read_gc_report", "verify", "write_gc_report"]
