"""Shared limits: budgets, GPU hours, quotas and the number of concurrent Workflows."""

import copy

import pytest

from orchestrator.cluster.port import Document, Kind
from orchestrator.contract.vocabulary import LABEL_KIND
from orchestrator.store.memory import Fault
from tests.controller.scenarios import (
    SMALL,
    created,
    study_of,
)
from tests.controller.simulated_cluster import SimulatedCluster


def test_a_new_controller_counts_the_promised_gpu_hours_of_other_studies_from_their_statuses() -> None:
    simulated = SimulatedCluster(gpus=1)
    simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": "1"}
    loop = simulated.controller()
    simulated.apply("first", paused=True, **copy.deepcopy(SMALL) | {"grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [2]}})
    simulated.apply("zeta", **SMALL)
    simulated.step(loop)
    for _ in range(3):  # complete the prepare tasks
        simulated.work()
        simulated.step(loop)
    status = copy.deepcopy(simulated.status("zeta"))
    status["gpuHours"] |= {"used": "0.50", "promised": "0.50"}
    simulated.cluster.set_status("scalingstudies", "zeta", status)
    simulated.edit("first", paused=False)
    before = created(simulated)
    simulated.step(simulated.controller())
    assert created(simulated) == before
    assert simulated.condition("BudgetExhausted", "first")["status"] == "True"


def test_an_exceeded_quota_is_reported_and_the_study_continues_once_it_is_lifted() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()

    def quota(kind: Kind, _body: Document) -> str | None:
        return "exceeded quota: few" if kind == "workflows" else None

    simulated.cluster.admission.append(quota)
    simulated.apply()
    simulated.step(loop, 2)
    assert "exceeded quota" in simulated.condition("Degraded")["message"]
    assert "SubmitRefused" in simulated.events()
    simulated.cluster.admission.clear()
    simulated.run_to_the_end(loop)


def test_an_exhausted_budget_holds_the_study_until_it_is_raised() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply(budget={"gpuHours": "0.0000001"})
    for _ in range(4):
        simulated.step(loop)
        simulated.work()
    simulated.step(loop)
    assert simulated.status()["phase"] == "Held"
    assert simulated.condition("BudgetExhausted")["status"] == "True"
    simulated.edit(budget={"gpuHours": 100})
    simulated.run_to_the_end(loop)


def test_the_gpu_hour_limit_of_the_namespace_counts_all_studies() -> None:
    simulated = SimulatedCluster()
    simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": "0.01"}
    loop = simulated.controller()
    simulated.apply("mine", **SMALL)
    simulated.run_to_the_end(loop)
    other = copy.deepcopy(SMALL) | {"grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [2]}}
    simulated.clock.advance(1)
    simulated.apply("yours", **other)
    for _ in range(8):
        simulated.step(loop)
        simulated.work()
    simulated.step(loop)
    assert simulated.status("yours")["phase"] == "Held"
    assert float(simulated.status("yours")["gpuHours"]["used"]) < 0.01, "alone it would have been under the cap"
    simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": "10"}
    simulated.run_to_the_end(loop, "yours")


def test_the_limit_of_concurrent_workflows_is_never_exceeded() -> None:
    simulated = SimulatedCluster()
    simulated.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "2"}
    loop = simulated.controller()
    for number in range(3):
        simulated.apply(f"study-{number}", grid={"sizes": ["0.03M"], "codePercent": [0, 50], "seeds": [number + 1]})
    for _ in range(60):
        simulated.step(loop)
        assert len(simulated.workflows("", "Pending", "Running")) <= 2
        simulated.work()
    assert [simulated.status(f"study-{number}")["phase"] for number in range(3)] == ["Succeeded"] * 3
    assert len(set(simulated.ran)) == len(simulated.ran)


def test_waiting_studies_submit_workflows_in_turn() -> None:
    simulated = SimulatedCluster()
    simulated.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "1"}
    loop = simulated.controller()
    for number in range(3):
        simulated.apply(f"study-{number}", grid={"sizes": ["0.03M"], "codePercent": [0, 50], "seeds": [number + 1]})
    order = dict[str, str]()
    for _ in range(60):
        simulated.step(loop)
        at_work = [body for body in simulated.workflows("", "Pending", "Running") if body["metadata"]["labels"][LABEL_KIND] == "train"]
        order |= {body["metadata"]["name"]: study_of(body) for body in at_work}
        simulated.work()
    assert [simulated.status(f"study-{number}")["phase"] for number in range(3)] == ["Succeeded"] * 3
    whose = list(order.values())
    assert [len(set(whose[first : first + 3])) for first in (0, 3)] == [3, 3], whose


@pytest.mark.parametrize("trouble", ["the policy", "the store"])
def test_a_blocked_study_does_not_block_the_queue(trouble: str) -> None:
    simulated = SimulatedCluster()
    apart = simulated.open_apart("memory://apart")
    loop = simulated.controller()
    simulated.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "1"}
    simulated.apply("first")
    simulated.apply("second", store="memory://apart", execution={"image": "other:1"})
    simulated.step(loop)
    assert "the namespace allows 1 at once" in simulated.condition("Progressing", "second")["message"], "the study waits in the queue"
    if trouble == "the policy":
        simulated.cluster.configs["scaling-study-policy"]["images"] = "trainer:*"
    else:
        apart.faults.append(Fault("*", "*", "before", times=-1))
    for _ in range(40):
        simulated.step(loop)
        simulated.work()
    assert simulated.status("first")["phase"] == "Succeeded"
