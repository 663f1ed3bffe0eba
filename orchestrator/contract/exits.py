"""Exit codes of an attempt, and what each means for the next one.

The trainer ends with these codes. The local scheduler, the Workflow's retry expression, the leases and the JobSet waiter all read the
meaning from this table, so that a code means the same everywhere.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit codes of the trainer. 64 and 65 are reserved by Argo."""

    DONE = 0
    """The record exists (also when it existed before)."""
    FAILED = 1
    """A failure that a retry may fix."""
    HELD = 69
    """Another attempt holds the lease, or an input is being made again: release the GPU and retry later."""
    STOPPED = 75
    """Stopped on request after writing a checkpoint: run again. Not a failure."""
    REFUSED = 78
    """A permanent failure: no retry can fix it."""


KILLED: Final = 137
"""Killed by SIGKILL, as shells and Kubernetes report it (128 + 9)."""
TERMINATED: Final = 143
"""Killed by SIGTERM before the process handled it (128 + 15)."""


class Reaction(StrEnum):
    """What the exit code of an attempt means for its task."""

    NEXT = "next"
    """The task is done."""
    AGAIN = "again"
    """Run the task again."""
    WAIT = "wait"
    """Run the task again after a pause that grows."""
    NEVER = "never"
    """Never run the task again in this run."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """`is_failure`: the attempt counts against the allowed failures. `cause`: the word in metrics and messages."""

    reaction: Reaction
    is_failure: bool
    cause: str


_MEANINGS: Final[dict[int, Meaning]] = {
    ExitCode.DONE: Meaning(Reaction.NEXT, False, "done"),
    ExitCode.HELD: Meaning(Reaction.WAIT, False, "failed"),
    ExitCode.STOPPED: Meaning(Reaction.AGAIN, False, "stopped"),
    ExitCode.REFUSED: Meaning(Reaction.NEVER, True, "failed"),
    KILLED: Meaning(Reaction.AGAIN, False, "killed"),
    TERMINATED: Meaning(Reaction.AGAIN, False, "killed"),
}
_FAILURE: Final = Meaning(Reaction.AGAIN, True, "failed")

RETRIED_WITHOUT_COUNTING: Final = tuple(
    sorted(code for code, meaning in _MEANINGS.items() if not meaning.is_failure and meaning.reaction is not Reaction.NEXT)
)
"""Codes after which a task runs again, however often: its lease was held, it was stopped, or it was killed."""


def meaning_of(code: int) -> Meaning:
    """Return the meaning of an exit code; an unknown code is a failure that is retried."""
    return _MEANINGS.get(code, _FAILURE)
