"""Edits of a running study."""

from typing import Any

import pytest

from orchestrator.store.plans import current
from tests.controller.simulated_cluster import SimulatedCluster, tasks_of


def test_a_removed_cell_stops_and_the_others_continue() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    for _ in range(2):
        simulated.step(loop)
        simulated.work()
    simulated.step(loop, 2)
    simulated.start_pods()
    running = simulated.workflows("Running")
    assert len(running) == 2
    first = current(simulated.store, "mine")
    simulated.edit(grid={"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]})
    simulated.step(loop)
    stopped = [workflow for workflow in simulated.workflows() if workflow["spec"].get("shutdown")]
    assert len(stopped) == 1
    second = current(simulated.store, "mine")
    assert first is not None
    assert second is not None
    assert not set(tasks_of(stopped[0])) <= set(second[1].tasks)
    assert simulated.status()["planDigest"] == second[0]
    assert second[0] != first[0]
    assert simulated.status()["planVersion"] == 2
    simulated.end_pods()
    simulated.run_to_the_end(loop)
    assert simulated.status()["counts"]["cells"] == 1


@pytest.mark.parametrize("change", [{"budget": {"gpuHours": 5}}, {"execution": {"image": "trainer:2"}}])
def test_an_edit_that_changes_no_result_keeps_the_plan(change: dict[str, Any]) -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    loop = simulated.controller()
    simulated.step(loop)
    before = simulated.status()["planDigest"]
    simulated.edit(**change)
    simulated.step(loop)
    assert (simulated.status()["planDigest"], simulated.status()["planVersion"], simulated.status()["observedGeneration"]) == (before, 1, 2)
