"""A study from creation to its end: pause, resume, retry, deletion."""

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.store.plans import current
from tests.controller.scenarios import SMALL, WRITES, at_work, refused, writes
from tests.controller.simulated_cluster import SimulatedCluster


def test_a_reconcile_without_changes_writes_nothing() -> None:
    simulated = SimulatedCluster(gpus=0)
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop, 2)
    simulated.start_pods()
    simulated.step(loop, 3)
    before = len(writes(simulated)), [call for call in simulated.cluster.calls if call[0] == "patch_status"]
    puts = [entry for entry in simulated.objects.log if entry[0] in ("put", "create")]
    simulated.step(loop, 3)
    assert (len(writes(simulated)), [call for call in simulated.cluster.calls if call[0] == "patch_status"]) == before
    assert [entry for entry in simulated.objects.log if entry[0] in ("put", "create")] == puts


def test_a_recreated_study_gets_a_new_run_number_and_retries_failures() -> None:
    simulated, loop = refused()
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(loop)
    simulated.apply(**SMALL)
    simulated.run_to_the_end(loop)
    assert (simulated.status()["phase"], simulated.status()["runNumber"]) == ("Succeeded", 2)


def test_pause_stops_workflows_and_resume_starts_a_new_run() -> None:
    simulated, loop = at_work()
    simulated.edit(paused=True)
    simulated.step(loop, 2)
    simulated.start_pods()
    assert all(workflow["spec"].get("shutdown") == "Stop" for workflow in simulated.workflows())
    assert simulated.status()["phase"] == "Stopping"
    simulated.end_pods(ExitCode.STOPPED)
    simulated.step(loop, 2)
    assert simulated.status()["phase"] == "Paused"
    simulated.edit(paused=False)
    simulated.run_to_the_end(loop)
    assert simulated.status()["runNumber"] == 2
    assert len(set(simulated.ran)) == len(simulated.ran)


def test_the_retry_annotation_retries_a_failed_task() -> None:
    simulated, loop = refused()
    assert "out of memory" in next(body["message"] for body in simulated.cluster.list("events").items if body["reason"] == "CellFailed")
    simulated.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "2"}}})
    simulated.step(loop)
    simulated.work()
    simulated.run_to_the_end(loop)
    assert (simulated.status()["phase"], simulated.status()["runNumber"]) == ("Succeeded", 2)


def test_an_out_of_memory_failure_stays_final_after_its_workflow_is_deleted() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply(**SMALL)
    simulated.step(loop)
    simulated.start_pods()
    simulated.run_out_of_memory()
    simulated.clock.advance(3600)
    simulated.step(loop, 2)
    assert simulated.status()["phase"] == "Failed"
    before = [entry for entry in simulated.objects.log if "lease" in entry[1]]
    simulated.step(loop, 3)
    assert [entry for entry in simulated.objects.log if "lease" in entry[1]] == before, "the event is emitted once"
    for workflow in simulated.workflows("Failed"):
        simulated.cluster.remove("workflows", workflow["metadata"]["name"])
    simulated.clock.advance(3600)
    simulated.step(simulated.controller(), 3)
    assert simulated.status()["phase"] == "Failed"
    assert "OOMKilled" in simulated.status()["failedCells"][0]["reason"]
    simulated.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "2"}}})
    simulated.run_to_the_end(simulated.controller())


def test_deleting_a_study_deletes_its_workflows_and_keeps_the_store() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop)
    simulated.work()
    simulated.step(loop, 2)
    simulated.start_pods()
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(loop, 2)
    assert not simulated.workflows()
    assert all("deletionTimestamp" in pod["metadata"] for pod in simulated.cluster.list("pods").items)
    assert current(simulated.store, "mine") is not None


def test_a_controller_that_is_not_the_leader_does_nothing() -> None:
    simulated = SimulatedCluster()
    simulated.apply()
    simulated.step(simulated.controller(may_work=lambda: False), 3)
    assert not [call for call in simulated.cluster.calls if call[0] in (*WRITES, "list") and call != ("create", "scalingstudies/mine")]
