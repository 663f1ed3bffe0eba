"""Studies that share tasks."""

import copy

import pytest

from orchestrator.cluster.port import Document, Kind
from orchestrator.contract.vocabulary import LABEL_STUDY
from tests.controller.scenarios import (
    SMALL,
    created,
    undisturbed,
)
from tests.controller.simulated_cluster import SimulatedCluster


def test_a_failure_of_another_study_is_retried_by_this_one() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    for name, image in (("mine", "small:1"), ("yours", "large:1")):
        simulated.apply(name, **SMALL, execution={"image": image})
        for _ in range(6):
            simulated.step(loop)
            simulated.start_pods()
            if name == "mine":
                simulated.never_begin()
            else:
                simulated.end_pods()
        if name == "mine":
            assert simulated.status()["phase"] == "Failed"
    simulated.run_to_the_end(loop, "yours")
    assert simulated.status()["phase"] == "Succeeded", "the failed study reuses the results of the other study"


def test_two_failing_studies_do_not_alternate_forever() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    for name in ("mine", "yours"):
        simulated.apply(name, **SMALL)
    for _ in range(12):
        simulated.step(loop)
        simulated.start_pods()
        simulated.never_begin()
    before = created(simulated)
    for _ in range(6):
        simulated.step(loop)
        simulated.start_pods()
        simulated.never_begin()
    assert created(simulated) == before
    assert [simulated.status(name)["phase"] for name in ("mine", "yours")] == ["Failed", "Failed"]


def test_the_same_study_under_another_name_reuses_all_tasks() -> None:
    simulated = undisturbed()
    before = created(simulated)
    simulated.apply("again")
    simulated.run_to_the_end(simulated.controller(), "again")
    assert created(simulated) == before
    assert "TaskReused" in simulated.events()


def test_two_studies_with_the_same_tasks_run_each_task_once() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply("mine")
    simulated.apply("yours")
    simulated.run_to_the_end(loop)
    simulated.run_to_the_end(loop, "yours")
    assert len(set(simulated.ran)) == len(simulated.ran)
    assert len(set(created(simulated))) == len(created(simulated))


def test_the_same_tasks_in_another_store_run_again() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply("mine", **SMALL)
    simulated.apply("yours", **SMALL | {"store": "memory://elsewhere"})
    simulated.step(loop, 2)
    assert len(simulated.workflows()) == 2
    assert [simulated.status(name)["counts"]["tasksQueued"] for name in ("mine", "yours")] == [1, 1]


@pytest.mark.parametrize(("phase", "whose"), [("Running", "mine"), ("Failed", "mine"), ("Failed", "yours")])
def test_an_existing_workflow_is_adopted_and_an_ended_one_replaced(phase: str, whose: str) -> None:
    """Another controller or study creates the Workflow between the controller's listing and its own create."""
    simulated = SimulatedCluster()
    loop = simulated.controller()
    raced: list[str] = []

    def faster(kind: Kind, body: Document) -> str | None:
        if kind == "workflows" and body["metadata"]["name"] not in raced:
            raced.append(body["metadata"]["name"])
            theirs = copy.deepcopy(body) | {"status": {"phase": phase}}
            theirs["metadata"]["labels"][LABEL_STUDY] = whose
            simulated.cluster.put("workflows", theirs)
        return None

    simulated.cluster.admission.append(faster)
    simulated.apply(**SMALL)
    simulated.run_to_the_end(loop)
    assert raced
    assert len(set(simulated.ran)) == len(simulated.ran)
    assert simulated.status()["phase"] == "Succeeded"
    assert "SubmitRefused" not in simulated.events()
    assert "AlreadyExists" not in loop._metrics.text().decode()
