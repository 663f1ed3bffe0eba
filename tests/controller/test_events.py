"""Events on studies."""

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.errors import ClusterUnavailable
from tests.controller.scenarios import Killed
from tests.controller.simulated_cluster import SimulatedCluster


@pytest.mark.parametrize("what", ["event", "patch_status"])
def test_an_event_that_could_not_be_emitted_is_emitted_later(what: str) -> None:
    """The Planned event, which is emitted once per plan, survives a failed call and a kill of the controller."""
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.cluster.faults.append(ClusterFault(what, times=2, error=Killed if what == "patch_status" else ClusterUnavailable))
    for _ in range(3):
        try:
            simulated.step(loop)
        except Killed:
            loop = simulated.controller()
    assert "Planned" in simulated.events()
    assert simulated.workflows()
