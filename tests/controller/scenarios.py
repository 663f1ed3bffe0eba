"""Helpers of the controller tests: a small study, runs with faults, and the calls that modify the cluster."""

from collections.abc import Callable
from typing import Any

from orchestrator.cluster.port import Document
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import LABEL_STUDY
from orchestrator.controller.loop import Loop
from tests.controller.simulated_cluster import SPEC, SimulatedCluster

SMALL: dict[str, Any] = {
    "grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]},
    "recipes": [{**SPEC["recipes"][0], "stages": SPEC["recipes"][0]["stages"][:1]}],
    "evaluation": {"after": ["pretrain"], "suites": ["bpb"]},
}


WRITES = ("create", "patch_status", "event", "stop_workflow", "delete")


class Killed(BaseException):
    """Simulates a kill of the controller's process."""


def undisturbed(**changes: Any) -> SimulatedCluster:
    simulated = SimulatedCluster()
    simulated.apply(**changes)
    simulated.run_to_the_end(simulated.controller())
    assert simulated.status()["phase"] == "Succeeded"
    return simulated


def study_of(workflow: Document) -> str:
    return str(workflow["metadata"]["labels"][LABEL_STUDY])


def refused() -> tuple[SimulatedCluster, Loop]:
    """A study whose first task has failed permanently."""
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply(**SMALL)
    simulated.step(loop)
    simulated.start_pods()
    simulated.end_pods(ExitCode.REFUSED, "out of memory")
    simulated.step(loop, 2)
    assert simulated.status()["phase"] == "Failed"
    return simulated, loop


def writes(simulated: SimulatedCluster) -> list[tuple[str, str]]:
    return [(name, target) for name, target in simulated.cluster.calls if name in WRITES and target != "scalingstudies/mine"]


def created(simulated: SimulatedCluster) -> list[str]:
    return [target for name, target in simulated.cluster.calls if name == "create" and target.startswith("workflows/")]


def run_disturbed(simulated: SimulatedCluster, disturb: Callable[[], None]) -> None:
    """Run a study to its end; a killed controller is replaced by a new one. Faults apply only to the controller's own calls."""
    loop = simulated.controller()
    simulated.apply(**SMALL)
    disturb()
    for _ in range(60):
        cluster_faults, store_faults = simulated.cluster.faults, simulated.objects.faults
        try:
            simulated.step(loop)
        except Killed:
            loop = simulated.controller()
        finally:
            simulated.cluster.faults, simulated.objects.faults = [], []
        if simulated.status().get("phase") == "Succeeded":
            return
        simulated.work()
        simulated.cluster.faults, simulated.objects.faults = cluster_faults, store_faults
    raise AssertionError(f"the study did not end: {simulated.status()}")


def assert_nothing_was_done_twice(simulated: SimulatedCluster, calm: SimulatedCluster) -> None:
    assert sorted(simulated.ran) == sorted(calm.ran)
    assert sorted(created(simulated)) == sorted(created(calm))
    assert simulated.status()["counts"] == calm.status()["counts"]


def at_work() -> tuple[SimulatedCluster, Loop]:
    """An applied study whose first pods are running."""
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop)
    simulated.start_pods()
    return simulated, loop
