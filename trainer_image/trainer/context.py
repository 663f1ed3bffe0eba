"""What a running task is given, and what it gives back.

`attempt` makes a `Context` for the task whose lease it holds and hands it to the `run` of `prepare`, `train` or `evaluate`. Those
read and write through it and return an `Outcome`; they know neither the command line, nor the parent process, nor signals.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.contract.events import Placement
from orchestrator.contract.record import Artifact
from orchestrator.contract.tasks import Task
from orchestrator.store import Store
from orchestrator.store.leases import Lease


class Stopped(Exception):
    """The task left on request, with all that it wants to find again in the store. Ends the attempt with 75."""


class PeerLost(Exception):
    """Another rank of the task has gone, by a kill or an error of its own: nothing can be summed any more. Ends with 75: begin again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished task has found. It becomes the record.

    `from_tokens`: where this attempt took the trajectory up. `tokens_lost`: tokens that attempts before this one trained past that
    point and that had to be trained again.
    """

    results: dict[str, float | int | str]
    artifacts: dict[str, Artifact]
    from_tokens: int = 0
    tokens_lost: int = 0


STOPPED_FETCHING: Final = "asked to stop while it fetched what it reads; no step was made"


def shards_of(placement: Placement, cache: Path) -> Path:
    """Where prepared tokens are fetched to: a volume that is there already, or the folder for all that is downloaded."""
    return Path(placement.shards) if placement.shards else cache


def _nobody_listens(done: int, total: int, unit: str, loss: float | None) -> None:
    del done, total, unit, loss


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """The task at hand and where to read and write for it.

    `cache`: a folder for what is downloaded. Call `progress` after each step: it may raise nothing and costs little. Ask `stopping`
    after each step too: when it says yes, write a checkpoint and raise `Stopped`. Renewing the lease is the task's own affair,
    because only it knows when a step has been made: `context.lease.renew(tokens)`.
    """

    store: Store
    digest: str
    task: Task
    lease: Lease
    placement: Placement
    cache: Path
    listen: Callable[[int, int, str, float | None], None] = field(default=_nobody_listens)
    stop: Callable[[], bool] = field(default=_never)

    @property
    def shards(self) -> Path:
        """A folder for prepared tokens, which other machines may read and fill too."""
        return shards_of(self.placement, self.cache)

    def progress(self, done: int, total: int, unit: str, loss: float | None = None) -> None:
        """Tell whoever watches how far the task is, for example `progress(4096, 524288, "tokens", 3.1)`."""
        self.listen(done, total, unit, loss)

    def stopping(self) -> bool:
        """True once the attempt was asked to stop."""
        return self.stop()

    def fetched(self) -> None:
        """Call it after each file that is fetched before the first step, which may outlast the lease. Raises Stopped, LeaseLost."""
        self.lease.renew_uncounted()
        if self.stopping():
            raise Stopped(STOPPED_FETCHING)
