"""Watches of the API."""

import threading

from orchestrator.cluster.port import Cluster
from orchestrator.controller.watching import Watches
from tests.controller.simulated_cluster import SimulatedCluster

PATIENCE = 60


class Woken:
    """Who was woken, and whether all of it is to be listed again."""

    def __init__(self, cluster: Cluster) -> None:
        self.names: list[str] = []
        self.heard = threading.Event()
        self.relists = 0
        self.stop = threading.Event()
        self.watches = Watches(cluster, self.stop, self.wake, self.relist)

    def wake(self, name: str) -> None:
        self.names.append(name)
        self.heard.set()

    def relist(self) -> None:
        self.relists += 1


def test_a_watch_wakes_the_study_but_not_for_status_writes() -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    woken = Woken(simulated.cluster)
    woken.watches.start_from({"scalingstudies": "0"})
    body = simulated.cluster.get("scalingstudies", "mine")
    assert body is not None
    simulated.cluster.patch_status("mine", {"phase": "Running"}, body["metadata"]["resourceVersion"])
    simulated.edit(paused=True)
    watching = threading.Thread(target=woken.watches.watch_once, args=("scalingstudies",), daemon=True)
    watching.start()
    assert woken.heard.wait(PATIENCE)
    while len(woken.names) < 2:
        woken.heard.clear()
        assert woken.heard.wait(PATIENCE)
    simulated.cluster.drop_watches()
    watching.join(PATIENCE)
    assert woken.names == ["mine", "mine"]


def test_an_expired_watch_requests_a_listing() -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    woken = Woken(simulated.cluster)
    woken.watches.start_from({"pods": "0"})
    simulated.cluster.compact()
    woken.watches.watch_once("pods")
    assert woken.relists == 1
