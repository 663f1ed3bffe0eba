"""Who of several controllers works: the holder of a Lease."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.errors import ClusterError

LOG: Final = logging.getLogger(__name__)


class Election:
    """Takes and renews the Lease in a thread of its own.

    `seconds`: after so long without a renewal another may lead; `is_leader` turns false by itself before that.
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
        """Ask once. An API that is away changes nothing: the lease we have runs out by itself."""
        asked = self._clock()
        try:
            won = self._cluster.acquire_lease(self._lease, self._holder, self._seconds)
        except ClusterError as problem:
            LOG.warning("the lease %s can neither be taken nor renewed: %s", self._lease, problem)
            return
        if won != self.is_leader:
            LOG.info("%s %s", self._holder, "leads" if won else "stands by")
        # a second of margin: who takes over counts from our last renewal, which reached the API after we asked
        self._leads_until = asked + self._seconds - 1 if won else float("-inf")

    def run(self, stop: threading.Event, changed: Callable[[], None]) -> None:
        """Campaign until `stop`; `changed` is called when it is won or lost."""
        while not stop.is_set():
            before = self.is_leader
            self.campaign()
            if self.is_leader != before:
                changed()
            stop.wait(self._seconds / 3)

    def resign(self) -> None:
        """Give the lease up, so that another need not wait."""
        self._leads_until = float("-inf")
        try:
            self._cluster.release_lease(self._lease, self._holder)
        except ClusterError as problem:
            LOG.warning("the lease %s is not given up, and runs out: %s", self._lease, problem)
