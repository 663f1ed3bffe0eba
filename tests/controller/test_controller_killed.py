"""A controller that is killed at any call resumes without repeating work, in a scenario with every event that it handles.

A study runs, is paused and resumed, loses a node and a Workflow, and has a task that fails permanently and is retried. The scenario runs
once undisturbed, then once for every call that changes something, with a kill before and after that call.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.store.memory import Fault
from tests.controller.simulated_cluster import SimulatedCluster

When: TypeAlias = Literal["before", "after"]

# Calls that modify the cluster
CHANGES: Final = ("create", "patch_status", "event", "stop_workflow", "delete")
STORE_CHANGES: Final = ("put", "create")
STEPS: Final = 12


class Killed(BaseException):
    """Simulates a kill of the controller's process."""

    def __init__(self, _message: str = "") -> None:
        super().__init__()


class Scenario:
    """`faults` apply only to the controller's own calls; a killed controller is replaced by a new one."""

    def __init__(self, *faults: ClusterFault | Fault) -> None:
        self.simulated = SimulatedCluster()
        self.kills = 0
        self.changes: list[tuple[str, str]] = []
        self._loop = self.simulated.controller()
        self._cluster_faults = [fault for fault in faults if isinstance(fault, ClusterFault)]
        self._store_faults = [fault for fault in faults if isinstance(fault, Fault)]

    def step(self) -> None:
        cluster, objects = self.simulated.cluster, self.simulated.objects
        calls, writes = len(cluster.calls), len(objects.log)
        cluster.faults, objects.faults = self._cluster_faults, self._store_faults
        try:
            self.simulated.step(self._loop)
        except Killed:
            self.kills += 1
            self._loop = self.simulated.controller()
        finally:
            cluster.faults, objects.faults = [], []
        self.changes += [call for call in cluster.calls[calls:] if call[0] in CHANGES]
        self.changes += [(f"store {name}", key) for name, key in objects.log[writes:] if name in STORE_CHANGES]

    def until(self, happened: Callable[[], object], between: Callable[[], None] = lambda: None) -> None:
        for _ in range(STEPS):
            self.step()
            if happened():
                return
            between()
        raise AssertionError(f"the condition was not reached: {self.simulated.status()}")

    def run(self) -> "Scenario":
        simulated = self.simulated
        simulated.apply()
        self.until(lambda: len(simulated.workflows("")) == 2, simulated.work)
        simulated.start_pods()
        simulated.edit(paused=True)
        self.until(lambda: simulated.status()["phase"] == "Paused", self._stop_pods)
        simulated.edit(paused=False)
        self.until(self._running, simulated.start_pods)
        simulated.lose_node(self._running()[0])
        self.until(lambda: len(self._running()) == 1)
        self.until(lambda: len(self._running()) == 2, simulated.start_pods)
        simulated.end_pods(ExitCode.REFUSED, "no")
        self.until(lambda: simulated.status()["phase"] == "Failed")
        simulated.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "3"}}})
        self.until(lambda: len(simulated.workflows("")) == 2)
        simulated.cluster.remove("workflows", simulated.workflows("")[0]["metadata"]["name"])
        self.until(lambda: simulated.status()["phase"] == "Succeeded", simulated.work)
        return self

    def _stop_pods(self) -> None:
        self.simulated.start_pods()
        self.simulated.end_pods(ExitCode.STOPPED)

    def _running(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.simulated.cluster.list("pods").items]


CALM: Final = Scenario().run()


def test_the_scenario_contains_every_kind_of_change() -> None:
    assert {name for name, _ in CALM.changes} == {*CHANGES, *(f"store {name}" for name in STORE_CHANGES)}
    assert {"CellFailed", "Succeeded"} <= CALM.simulated.events()


def boundaries() -> list[tuple[str, When, int]]:
    counts = {name: sum(found == name for found, _ in CALM.changes) for name, _ in CALM.changes}
    return [(name, when, number) for name, count in counts.items() for when in ("before", "after") for number in range(count)]


def fault(name: str, when: When, number: int) -> ClusterFault | Fault:
    kind, _, operation = name.rpartition(" ")
    if kind:
        return Fault(operation, "*", when, skip=number, error=Killed)
    return ClusterFault(name, when=when, skip=number, error=Killed)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", sorted({name for name, _ in CALM.changes}))
def test_a_kill_at_any_change_only_delays_the_study(name: str, when: Any) -> None:
    for found, moment, number in boundaries():
        if (found, moment) != (name, when):
            continue
        scenario = Scenario(fault(name, when, number)).run()
        assert scenario.kills == 1, f"{name} {number} was never reached"
        assert sorted(scenario.simulated.ran) == sorted(CALM.simulated.ran), "every task ran to its end once"
        status, calm = scenario.simulated.status(), CALM.simulated.status()
        assert (status["counts"], status["runNumber"]) == (calm["counts"], calm["runNumber"])
