"""Recovery of the control loop: kills of the controller and failures of the API and the store repeat no work."""

from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.errors import ClusterUnavailable
from orchestrator.store.memory import Fault
from tests.controller.scenarios import SMALL, Killed, assert_nothing_was_done_twice, run_disturbed, undisturbed
from tests.controller.simulated_cluster import SimulatedCluster


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["*", "create", "patch_status"])
def test_a_controller_killed_at_any_call_resumes_without_repeating_work(when: Any, method: str) -> None:
    calm = undisturbed(**SMALL)
    total = len(calm.cluster.calls) if method == "*" else sum(name == method for name, _ in calm.cluster.calls)
    for number in range(0, total, 7 if method == "*" else 1):
        simulated = SimulatedCluster()
        fault = ClusterFault(method, when=when, skip=number, error=Killed)
        run_disturbed(simulated, lambda fault=fault, simulated=simulated: simulated.cluster.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(simulated, calm)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["create", "patch_status", "list", "read_config"])
def test_api_failures_at_any_call_only_delay_the_study(when: Any, method: str) -> None:
    calm = undisturbed(**SMALL)
    for number in range(0, sum(name == method for name, _ in calm.cluster.calls), 3):
        simulated = SimulatedCluster()
        fault = ClusterFault(method, when=when, skip=number, times=2)
        run_disturbed(simulated, lambda fault=fault, simulated=simulated: simulated.cluster.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(simulated, calm)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("operation", "key"), [("create", "studies/*"), ("put", "plans/*"), ("create", "tasks/*"), ("list", "done")])
def test_store_failures_at_any_call_only_delay_the_study(when: Any, operation: str, key: str) -> None:
    calm = undisturbed(**SMALL)
    for number in range(3):
        simulated = SimulatedCluster()
        fault = Fault(operation, key, when, times=4, skip=number)
        run_disturbed(simulated, lambda fault=fault, simulated=simulated: simulated.objects.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(simulated, calm)


def test_an_unreachable_store_sets_the_degraded_condition() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.objects.faults.append(Fault("*", "*", "before", times=-1))
    simulated.step(loop, 4)
    condition = simulated.condition("Degraded")
    assert (condition["status"], condition["reason"]) == ("True", "StoreUnavailable")
    simulated.objects.faults.clear()
    simulated.run_to_the_end(loop)
    assert simulated.condition("Degraded")["status"] == "False"


def test_an_unreachable_store_is_requested_once_per_round() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    for number in range(5):
        simulated.apply(f"study-{number}")
    simulated.step(loop)
    fault = Fault("list", "done", "before", times=100)
    simulated.objects.faults.append(fault)
    simulated.step(loop)
    assert fault.times == 99


def test_a_study_continues_after_an_api_outage() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop)
    simulated.cluster.faults.append(ClusterFault("*", times=5))
    for _ in range(5):
        simulated.step(loop)
    simulated.run_to_the_end(loop)
    assert len(set(simulated.ran)) == len(simulated.ran)


def test_cluster_unavailable_is_retryable() -> None:
    assert ClusterUnavailable.retryable
