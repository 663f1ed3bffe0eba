"""Stalled tasks, lost nodes and deleted Workflows."""

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.errors import Refused
from tests.controller.scenarios import SMALL, at_work
from tests.controller.simulated_cluster import SimulatedCluster


def test_a_stalled_task_is_restarted() -> None:
    simulated, loop = at_work()
    (pod,) = simulated.cluster.list("pods").items
    simulated.clock.advance(31 * 60)
    simulated.step(loop)
    (pod,) = simulated.cluster.list("pods").items
    assert "deletionTimestamp" in pod["metadata"]
    assert "Stalled" in simulated.events()


@pytest.mark.parametrize("may_see_nodes", [True, False])
def test_a_pod_on_a_lost_node_is_force_deleted(may_see_nodes: bool) -> None:
    simulated, loop = at_work()
    (pod,) = simulated.cluster.list("pods").items
    name = pod["metadata"]["name"]
    simulated.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    simulated.cluster.delete("pods", name)
    simulated.step(loop, 4)
    assert simulated.cluster.get("pods", name), "its node is reachable, so the pod is not deleted"
    if may_see_nodes:
        simulated.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    else:
        simulated.cluster.faults.append(ClusterFault("list", "nodes", times=-1, error=lambda: Refused("nodes is forbidden")))
        simulated.cluster.set_status("pods", name, {"conditions": [{"type": "Ready", "status": "False"}]})
    simulated.step(loop, 4)
    assert simulated.cluster.get("pods", name) is None


def test_a_lost_pod_of_a_deleted_study_does_not_block_another() -> None:
    simulated, loop = at_work()
    (pod,) = simulated.cluster.list("pods").items
    simulated.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    simulated.cluster.delete("pods", pod["metadata"]["name"])
    (workflow,) = simulated.workflows("Running")
    simulated.cluster.remove("workflows", workflow["metadata"]["name"])
    simulated.cluster.remove("scalingstudies", "mine")
    simulated.apply("yours", **SMALL)
    simulated.step(loop, 4)
    assert simulated.cluster.get("pods", pod["metadata"]["name"]) is None


def test_a_manually_deleted_workflow_is_submitted_again() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply(**SMALL)
    simulated.step(loop)
    (workflow,) = simulated.workflows()
    simulated.cluster.remove("workflows", workflow["metadata"]["name"])
    simulated.run_to_the_end(loop)
    assert len(set(simulated.ran)) == len(simulated.ran)
