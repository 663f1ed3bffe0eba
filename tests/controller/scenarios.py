"""Helpers of the controller tests: a small study, disturbed runs and the calls of the cluster that write."""

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
    """The controller's process is gone."""


def undisturbed(**changes: Any) -> SimulatedCluster:
    simulated = SimulatedCluster()
    simulated.apply(**changes)
    simulated.run_to_the_end(simulated.controller())
    assert simulated.status()["phase"] == "Succeeded"
    return simulated


def study_of(workflow: Document) -> str:
    return str(workflow["metadata"]["labels"][LABEL_STUDY])


def refused() -> tuple[SimulatedCluster, Loop]:
    """A study whose first task has refused for good."""
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
    """To the end, with a new controller whenever the old one dies. Faults meet the controller's own calls alone."""
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
    raise AssertionError(f"no end: {simulated.status()}")


def assert_nothing_was_done_twice(simulated: SimulatedCluster, calm: SimulatedCluster) -> None:
    assert sorted(simulated.ran) == sorted(calm.ran)
    assert sorted(created(simulated)) == sorted(created(calm))
    assert simulated.status()["counts"] == calm.status()["counts"]


def at_work() -> tuple[SimulatedCluster, Loop]:
    """A study that was applied and whose first pods run."""
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop)
    simulated.start_pods()
    return simulated, loop
