"""Looks after a store: finds what is broken, moves it aside, and removes what nobody needs.

The command line (`scaling-study store verify`, `store gc`) calls `verify` and `gc`; whoever meets a damaged input calls
`move_aside`.
"""

from orchestrator.store.maintenance.gc import Removal, gc
from orchestrator.store.maintenance.gc_report import Look, last_look, note_look
from orchestrator.store.maintenance.repair import move_aside
from orchestrator.store.maintenance.verify import Finding, verify

__all__ = ["Finding", "Look", "Removal", "gc", "last_look", "move_aside", "note_look", "verify"]
