"""The inputs of a running task (`Context`) and its results (`Outcome`).

`attempt` creates a `Context` for the task whose lease it holds and passes it to the `run` of `prepare`, `training` or `evaluate`. These
read and write through the context and return an `Outcome`. They do not depend on the command line, the parent process or signals.
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
    """The task stopped on request after saving its progress in the store. The attempt exits with 75."""


class PeerLost(Exception):
    """Another rank of the task was killed or failed, so collectives cannot complete. The attempt exits with 75, which asks for a retry."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results and artifacts of a finished task, to be published as its record.

    `from_tokens`: position from which this attempt resumed the trajectory. `tokens_lost`: tokens that earlier attempts trained past that
    position and that had to be trained again.
    """

    results: dict[str, float | int | str]
    artifacts: dict[str, Artifact]
    from_tokens: int = 0
    tokens_lost: int = 0


STOPPED_FETCHING: Final = "asked to stop while it fetched its inputs; no step was made"


def shards_of(placement: Placement, cache: Path) -> Path:
    """Return the folder for prepared tokens: the shared volume if the placement names one, else the download cache."""
    return Path(placement.shards) if placement.shards else cache


def _ignore_progress(done: int, total: int, unit: str, loss: float | None) -> None:
    del done, total, unit, loss


def _never_stop() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """The task to perform, its lease, its placement, and where it reads and writes.

    `cache`: folder for downloads. After each step the task calls `progress`, which is cheap and raises nothing, and checks `stopping`:
    if it is true, the task writes a checkpoint and raises `Stopped`. The task renews its lease itself with
    `context.lease.renew(tokens)`, because only the task knows when a step has completed.
    """

    store: Store
    digest: str
    task: Task
    lease: Lease
    placement: Placement
    cache: Path
    listen: Callable[[int, int, str, float | None], None] = field(default=_ignore_progress)
    stop: Callable[[], bool] = field(default=_never_stop)

    @property
    def shards(self) -> Path:
        """Folder for prepared tokens. Other machines may read and write it too."""
        return shards_of(self.placement, self.cache)

    def progress(self, done: int, total: int, unit: str, loss: float | None = None) -> None:
        """Report the task's progress, for example `progress(4096, 524288, "tokens", 3.1)`."""
        self.listen(done, total, unit, loss)

    def stopping(self) -> bool:
        """Return True once the attempt was asked to stop."""
        return self.stop()

    def after_download(self) -> None:
        """Renew the lease after a download made before the first step; downloads may outlast the lease. Raises Stopped, LeaseLost."""
        self.lease.renew_uncounted()
        if self.stopping():
            raise Stopped(STOPPED_FETCHING)
