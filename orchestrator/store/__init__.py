"""The store: plans, tasks, leases, checkpoints, metrics and records in a folder or a bucket. The only package that accesses it.

`addresses` defines every key. `objects`, `bucket`, `memory` and `opening` provide object storage. `artifacts`, `leases`, `checkpoints`,
`records`, `metrics` and `plans` each manage one kind of data. `maintenance` verifies a store and removes unneeded objects. Called by the
trainer, the local run, tracking, the controller and the command line.
"""

from orchestrator.store.objects import Store, utc_now
from orchestrator.store.opening import open_store, store_exists

__all__ = ["Store", "open_store", "store_exists", "utc_now"]
