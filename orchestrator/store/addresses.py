"""The layout of the store: the only module that builds or parses keys. Pure."""

import re
from typing import Final

from orchestrator.contract.kinds import KINDS
from orchestrator.contract.vocabulary import TaskKind

RECORDS: Final = "tasks"
DONE: Final = "done"
PLANS: Final = "plans"
TRAJECTORIES: Final = "trajectories"
STUDIES: Final = "studies"
FINGERPRINTS: Final = "fingerprints"
LOG: Final = "log.txt"
"""File in an attempt's folder with the output of its pod."""
GC_REPORT: Final = "upkeep/gc.json"
"""Result of the last garbage collection."""

_LEASE: Final = re.compile(r"lease/(\d{6,})\.json$")
_POINTER: Final = re.compile(r"/checkpoints/(\d+)\.json$")


def task_key(digest: str) -> str:
    """Return the key of a task's identity."""
    return f"tasks/{digest}/task.json"


def record_key(digest: str) -> str:
    """Return the key of a finished task's record."""
    return f"tasks/{digest}/record.json"


def done_key(digest: str) -> str:
    """Return the key of the marker of a finished task; one listing of `done/` returns all finished tasks."""
    return f"{DONE}/{digest}"


def work_root(kind: TaskKind | str, digest: str) -> str:
    """Return the folder of leases, attempts and checkpoints. `digest`: the trajectory's for a train task, else the task's own."""
    return f"{KINDS[TaskKind(kind)].root}/{digest}"


def leases_prefix(work_root: str) -> str:
    return f"{work_root}/lease"


def lease_key(work_root: str, number: int) -> str:
    """Return the key of a lease; `number` is the fencing number."""
    return f"{leases_prefix(work_root)}/{number:06d}.json"


def lease_number(key: str) -> int | None:
    """Return the number of a lease from its key; None for other keys."""
    match = _LEASE.search(key)
    return int(match[1]) if match else None


def attempt_key(work_root: str, number: int, *parts: str) -> str:
    """Return a key in the folder of attempt `number`, the only folder that it writes its files to."""
    return "/".join([work_root, "attempts", f"{number:06d}", *parts])


def checkpoints_prefix(work_root: str) -> str:
    return f"{work_root}/checkpoints"


def checkpoint_pointer_key(work_root: str, tokens: int) -> str:
    """Return the key of the pointer to the trajectory's checkpoint at `tokens`."""
    return f"{checkpoints_prefix(work_root)}/{tokens}.json"


def pointer_tokens(key: str) -> int | None:
    """Return the tokens of a checkpoint pointer from its key; None for other keys."""
    match = _POINTER.search(key)
    return int(match[1]) if match else None


def plan_key(digest: str) -> str:
    return f"{PLANS}/{digest}.json"


def study_key(name: str, number: int) -> str:
    """Return the key that holds the plan digest of version `number` of a study."""
    return f"{STUDIES}/{name}/{number}.json"


def study_prefix(name: str) -> str:
    return f"{STUDIES}/{name}"


def fingerprints_key(digest: str) -> str:
    """Return the key of the source fingerprints that a pod computed; `digest` is that of the request."""
    return f"{FINGERPRINTS}/{digest}.json"


def damaged_key(key: str, nonce: str) -> str:
    """Return the quarantine key for the object at `key`; `nonce` makes it unique."""
    return f"damaged/{key}~{nonce}"
