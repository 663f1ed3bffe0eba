"""Looks after a store: finds what is broken, moves it aside, and removes what nobody needs.

The command line (`scaling-study store verify`, `store gc`) calls `verify` and `gc`; whoever meets a damaged input calls
`move_aside`.
"""

from orchestrator.store.upkeep.clearing import Removal, gc
from orchestrator.store.upkeep.repair import move_aside
from orchestrator.store.upkeep.verification import Finding, verify

__all__ = ["Finding", "Removal", "gc", "move_aside", "verify"]
