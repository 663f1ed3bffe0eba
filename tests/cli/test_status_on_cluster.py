"""`status` of a study on a cluster, with a running controller and simulated pods."""

import pytest

from orchestrator.cli.status import document, needs_attention
from orchestrator.cluster.study_object import find_object
from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.monitor.connect import cluster_status_reader
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.store import Store
from tests.cli.cluster_study import reader, run_until_training, text_of
from tests.controller.simulated_cluster import SimulatedCluster


def test_a_study_without_a_controller_is_unseen(simulated: SimulatedCluster) -> None:
    simulated.apply()
    view = reader(simulated).read()
    assert (view.phase, view.plan) == ("Unseen", None)
    shown = text_of(view)
    assert "mine in namespace studies: Unseen" in shown
    assert "none yet: no controller has reconciled it" in shown


def test_the_grid_shows_the_states_that_the_controller_uses(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    assert view.phase == "Running"
    assert [str(cell.state) for cell in view.cells] == ["running", "running"]
    assert {work.pod for work in view.active_tasks} == {pod["metadata"]["name"] for pod in simulated.cluster.list("pods").items}
    shown = text_of(view)
    assert "▶ 0/1" in shown
    assert f"pod {view.active_tasks[0].pod} for " in shown
    assert "Accepted" in shown
    assert "Progressing" in shown
    assert not needs_attention(view)


def test_a_finished_study_has_succeeded(simulated: SimulatedCluster) -> None:
    loop = simulated.controller()
    simulated.apply()
    simulated.run_to_the_end(loop)
    view = reader(simulated).read()
    assert (view.phase, {str(cell.state) for cell in view.cells}) == ("Succeeded", {"done"})
    assert document(view)["counts"]["cellsDone"] == 2


def test_the_reason_why_a_submitted_task_waits_is_shown(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    for pod in simulated.cluster.list("pods").items:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}
        simulated.cluster.set_status("pods", pod["metadata"]["name"], {"phase": "Pending", "conditions": [condition]})
    view = reader(simulated).read()
    assert view.waits == {"Unschedulable: 0/1 nodes: no GPU": 2}
    assert "2 x Unschedulable: 0/1 nodes: no GPU" in text_of(view)


def test_a_rejected_study_shows_the_policy_rule(simulated: SimulatedCluster) -> None:
    simulated.apply(execution={})
    simulated.step(simulated.controller())
    view = reader(simulated).read()
    assert (view.phase, needs_attention(view)) == ("Refused", True)
    shown = text_of(view)
    assert "ImageMissing" in shown
    assert "no grid" not in shown, "there is nothing to wait for"


def test_conditions_of_an_older_generation_are_marked(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    simulated.edit(budget={"gpuHours": 3})
    view = reader(simulated).read()
    assert view.phase == "Unseen"
    assert "(before its last edit)" in text_of(view)


def test_a_task_that_another_study_runs_is_awaited(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    simulated.apply("other")
    simulated.step(simulated.controller())
    view = StatusReader("other", simulated.clock, store=simulated.store, cluster=simulated.cluster).read()
    awaited = [work for work in view.active_tasks if work.state == "awaited"]
    assert awaited
    assert awaited[0].reason == "study mine works on it"


def test_cell_states_come_from_the_object_while_the_store_is_unreachable(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)

    def unreachable(_url: str) -> Store:
        raise StoreUnavailable("no credentials")

    view = cluster_status_reader(simulated.cluster, "mine", None, unreachable).read()
    assert view.plan is None
    assert view.trouble == "its store cannot be reached from here: no credentials"
    shown = text_of(view)
    assert "Running, 0/2 cells, 3/" in shown
    assert "its store cannot be reached from here: no credentials" in shown
    assert f"{view.pods[0].name}: Running" in shown
    assert "Progressing" in shown
    assert "▶ 0/1" in shown, "the object has the state of every cell, but not its progress"
    assert [(each.cell.name, each.state) for each in view.cells] == [
        (each.cell.name, each.state) for each in reader(simulated).read().cells
    ]


def test_cell_states_in_the_status_are_in_the_order_of_the_cells(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    simulated.cluster.set_status("pods", view.active_tasks[0].pod, {"phase": "Pending"})
    simulated.step(simulated.controller())
    assert simulated.status()["cellStates"] == "QR"
    without_store = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="unreachable").read()
    assert [(each.cell.name, str(each.state)) for each in without_store.cells] == [
        ("scratch/0.03M/c0/s1", "queued"),
        ("scratch/0.03M/c50/s1", "running"),
    ]


@pytest.mark.parametrize("letters", ["", "DD", "D", "DDD", "x."])
def test_cell_states_that_do_not_match_the_grid_are_ignored(simulated: SimulatedCluster, letters: str) -> None:
    run_until_training(simulated)
    body = find_object(simulated.cluster, "mine")
    simulated.cluster.patch_status("mine", {**body["status"], "cellStates": letters}, body["metadata"]["resourceVersion"])
    view = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="unreachable").read()
    assert [str(each.state) for each in view.cells] == (["done", "done"] if letters == "DD" else [])
    assert ("no grid:" in text_of(view)) == (letters != "DD")


def test_a_store_without_the_plan_is_not_used(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    other = SimulatedCluster()
    view = StatusReader("mine", simulated.clock, store=other.store, cluster=simulated.cluster).read()
    assert view.plan is None
    assert "does not contain its plan" in view.trouble


def test_a_missing_study_is_reported(simulated: SimulatedCluster) -> None:
    with pytest.raises(NotFound, match="no study in namespace studies is called 'mine'"):
        cluster_status_reader(simulated.cluster, "mine", None)
