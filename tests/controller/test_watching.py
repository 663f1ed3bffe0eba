"""Watches of the API."""

import queue
import threading

from orchestrator.cluster.port import Cluster
from orchestrator.controller.watching import Watches
from tests.controller.simulated_cluster import SimulatedCluster

PATIENCE = 60


class WakeUps:
    """Names of the studies that the watches wake, in order, and the number of requested listings."""

    def __init__(self, cluster: Cluster) -> None:
        self.names: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.relists = 0
        self.stop = threading.Event()
        self.watches = Watches(cluster, self.stop, self.wake, self.relist)

    def wake(self, name: str) -> None:
        self.names.put(name)

    def relist(self) -> None:
        self.relists += 1


def test_a_watch_wakes_the_study_except_for_status_writes() -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    wake_ups = WakeUps(simulated.cluster)
    wake_ups.watches.start_from({"scalingstudies": "0"})
    body = simulated.cluster.get("scalingstudies", "mine")
    assert body is not None
    simulated.cluster.patch_status("mine", {"phase": "Running"}, body["metadata"]["resourceVersion"])
    simulated.edit(paused=True)
    watching = threading.Thread(target=wake_ups.watches.watch_once, args=("scalingstudies",), daemon=True)
    watching.start()
    assert [wake_ups.names.get(timeout=PATIENCE) for _ in range(2)] == ["mine", "mine"]
    simulated.cluster.drop_watches()
    watching.join(PATIENCE)
    assert wake_ups.names.empty()


def test_an_expired_watch_requests_a_listing() -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    wake_ups = WakeUps(simulated.cluster)
    wake_ups.watches.start_from({"pods": "0"})
    simulated.cluster.compact()
    wake_ups.watches.watch_once("pods")
    assert wake_ups.relists == 1
