"""Every key of the store: the only place that spells them. Pure."""

import re
from typing import Final

from orchestrator.contract.vocabulary import TaskKind

RECORDS: Final = "tasks"
DONE: Final = "done"
PLANS: Final = "plans"
TRAJECTORIES: Final = "trajectories"
STUDIES: Final = "studies"
FINGERPRINTS: Final = "fingerprints"
LOG: Final = "log.txt"
"""In an attempt's folder: what its pod printed."""
RETENTION: Final = "upkeep/gc.json"
"""What the last clearing found."""

_LEASE: Final = re.compile(r"lease/(\d{6,})\.json$")
_POINTER: Final = re.compile(r"/checkpoints/(\d+)\.json$")


def task_key(digest: str) -> str:
    """The identity of a task."""
    return f"tasks/{digest}/task.json"


def record_key(digest: str) -> str:
    """What a finished task left."""
    return f"tasks/{digest}/record.json"


def done_key(digest: str) -> str:
    """The marker that makes one listing show all that is done."""
    return f"{DONE}/{digest}"


def work_root(kind: TaskKind | str, digest: str) -> str:
    """The folder of leases, attempts and checkpoints. `digest`: the trajectory's for a train task, else the task's own."""
    return f"{TRAJECTORIES if kind == TaskKind.TRAIN else RECORDS}/{digest}"


def leases_prefix(work_root: str) -> str:
    return f"{work_root}/lease"


def lease_key(work_root: str, number: int) -> str:
    """Who works; `number` is the fencing number."""
    return f"{leases_prefix(work_root)}/{number:06d}.json"


def lease_number(key: str) -> int | None:
    """Inverse of `lease_key`; None for other keys."""
    match = _LEASE.search(key)
    return int(match[1]) if match else None


def attempt_key(work_root: str, number: int, *parts: str) -> str:
    """Where attempt `number` writes all that it writes."""
    return "/".join([work_root, "attempts", f"{number:06d}", *parts])


def checkpoints_prefix(work_root: str) -> str:
    return f"{work_root}/checkpoints"


def checkpoint_pointer_key(work_root: str, tokens: int) -> str:
    """Points to a whole checkpoint of the trajectory."""
    return f"{checkpoints_prefix(work_root)}/{tokens}.json"


def pointer_tokens(key: str) -> int | None:
    """Inverse of `checkpoint_pointer_key`; None for other keys."""
    match = _POINTER.search(key)
    return int(match[1]) if match else None


def plan_key(digest: str) -> str:
    return f"{PLANS}/{digest}.json"


def study_key(name: str, number: int) -> str:
    """Names the plan of the study's `number`-th version."""
    return f"{STUDIES}/{name}/{number}.json"


def study_prefix(name: str) -> str:
    return f"{STUDIES}/{name}"


def fingerprints_key(digest: str) -> str:
    """What a pod found the files of a study to be; `digest` is of what was asked."""
    return f"{FINGERPRINTS}/{digest}.json"


def damaged_key(key: str, nonce: str) -> str:
    """Where what stood under `key` is moved aside."""
    return f"damaged/{key}~{nonce}"
