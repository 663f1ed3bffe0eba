"""What the studies of a namespace share: a cap of GPU-hours, and places for Workflows.

`passes` asks it at every look and tells it what came of it. In memory alone: what studies have spent stands in their statuses too, and a
line begins anew.
"""

from collections.abc import Mapping
from datetime import datetime

from orchestrator.cluster.port import Document


class Shares:
    """Accounts of studies and the line in which they wait for a place, both by name."""

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[float, float]] = {}
        self._line: dict[str, datetime] = {}

    def forget(self, name: str) -> None:
        """The study is gone, and its account with it."""
        self._accounts.pop(name, None)
        self._line.pop(name, None)

    # GPU-seconds

    def of_others(self, name: str, studies: Mapping[str, Document]) -> tuple[float, float]:
        """What all but `name` have spent, and are promised yet. One that was not looked at yet says so in its status."""
        accounts = [self._accounts.get(other) or _in_status(body) for other, body in studies.items() if other != name]
        return sum(spent for spent, _ in accounts), sum(promised for _, promised in accounts)

    def settle(self, name: str, spent: float, promised: float) -> None:
        """What its attempts have cost, and what its tasks in flight are still estimated to cost."""
        self._accounts[name] = spent, promised

    # Places for Workflows

    def step_out(self, name: str, now: datetime) -> datetime:
        """Since when it stands in the line; `now` when it did not. While it is looked at it keeps nobody from a place: a look may fail."""
        return self._line.pop(name, now)

    def stand(self, name: str, since: datetime) -> None:
        """It waits for a place."""
        self._line[name] = since

    def before(self, since: datetime) -> int:
        """How many have waited longer."""
        return sum(other < since for other in self._line.values())

    def is_first(self, name: str) -> bool:
        """Whether the next place is its."""
        return name in self._line and self._line[name] == min(self._line.values())


def _in_status(body: Document) -> tuple[float, float]:
    hours = (body.get("status") or {}).get("gpuHours") or {}
    return float(hours.get("used") or 0) * 3600, float(hours.get("promised") or 0) * 3600
