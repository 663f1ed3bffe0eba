"""The only rooms that touch the store: a folder or a bucket, laid out as section 5 of the design says.

`addresses` spells every key; `objects`, `bucket`, `memory` and `opening` are the ground; `artifacts`, `leases`, `checkpoints`,
`records`, `metrics` and `plans` each own one thing that is kept; `upkeep` verifies and clears. Trainer, local run, tracking, controller
and command line call them.
"""

from orchestrator.store.objects import Store, utc_now
from orchestrator.store.opening import is_there, open_store

__all__ = ["Store", "is_there", "open_store", "utc_now"]
