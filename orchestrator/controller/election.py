"""Leader election between controllers with a Kubernetes Lease."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.errors import ClusterError

LOG: Final = logging.getLogger(__name__)


class Election:
    """Acquires and renews the Lease in a thread of its own.

    `seconds`: duration of the Lease. Without a renewal, `is_leader` becomes false before another controller can acquire it.
    """

    def __init__(self, cluster: Cluster, lease: str, holder: str, seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._lease = lease
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._leads_until = float("-inf")

    @property
    def is_leader(self) -> bool:
        return self._clock() < self._leads_until

    def campaign(self) -> None:
        """Try once to acquire or renew the Lease. If the API is unreachable, a held Lease is kept until it expires."""
        requested_at = self._clock()
        try:
            won = self._cluster.acquire_lease(self._lease, self._holder, self._seconds)
        except ClusterError as problem:
            LOG.warning("the Lease %s can neither be acquired nor renewed: %s", self._lease, problem)
            return
        if won != self.is_leader:
            LOG.info("%s %s", self._holder, "is the leader" if won else "is on standby")
        # one second of margin: other controllers count from our last renewal, which reached the API after the request began
        self._leads_until = requested_at + self._seconds - 1 if won else float("-inf")

    def run(self, stop: threading.Event, changed: Callable[[], None]) -> None:
        """Campaign until `stop` is set. `changed` is called when leadership is won or lost."""
        while not stop.is_set():
            before = self.is_leader
            self.campaign()
            if self.is_leader != before:
                changed()
            stop.wait(self._seconds / 3)

    def resign(self) -> None:
        """Release the Lease, so that another controller need not wait for its expiry."""
        self._leads_until = float("-inf")
        try:
            self._cluster.release_lease(self._lease, self._holder)
        except ClusterError as problem:
            LOG.warning("the Lease %s could not be released and will expire: %s", self._lease, problem)
