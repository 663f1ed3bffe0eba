"""A controller that is killed at any call goes on where it was, in a story in which everything happens that it reacts to.

A study runs, is paused in its middle and resumed, loses a node for good and a Workflow, has a task refused for good and tried again by a
person. The story is told once undisturbed, then once for every call that changes something, with a death before and after that call.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, ExitCode
from orchestrator.store.memory import Fault
from tests.controller.simulated_cluster import Played

When: TypeAlias = Literal["before", "after"]

# Everything that the controller asks of the cluster and that changes something
CHANGES: Final = ("create", "patch_status", "event", "stop_workflow", "delete")
STORE_CHANGES: Final = ("put", "create")
TURNS: Final = 12


class Killed(BaseException):
    """The controller's process is gone."""

    def __init__(self, _message: str = "") -> None:
        super().__init__()


class Story:
    """`faults` meet the controller's own calls alone; whenever it dies, another is started that knows nothing."""

    def __init__(self, *faults: ClusterFault | Fault) -> None:
        self.played = Played()
        self.deaths = 0
        self.changes: list[tuple[str, str]] = []
        self._loop = self.played.controller()
        self._cluster_faults = [fault for fault in faults if isinstance(fault, ClusterFault)]
        self._store_faults = [fault for fault in faults if isinstance(fault, Fault)]

    def turn(self) -> None:
        cluster, objects = self.played.cluster, self.played.objects
        calls, writes = len(cluster.calls), len(objects.log)
        cluster.faults, objects.faults = self._cluster_faults, self._store_faults
        try:
            self.played.turn(self._loop)
        except Killed:
            self.deaths += 1
            self._loop = self.played.controller()
        finally:
            cluster.faults, objects.faults = [], []
        self.changes += [call for call in cluster.calls[calls:] if call[0] in CHANGES]
        self.changes += [(f"store {name}", key) for name, key in objects.log[writes:] if name in STORE_CHANGES]

    def until(self, happened: Callable[[], object], between: Callable[[], None] = lambda: None) -> None:
        for _ in range(TURNS):
            self.turn()
            if happened():
                return
            between()
        raise AssertionError(f"it does not happen: {self.played.status()}")

    def tell(self) -> "Story":
        played = self.played
        played.apply()
        self.until(lambda: len(played.workflows("")) == 2, played.work)
        played.start_pods()
        played.edit(paused=True)
        self.until(lambda: played.status()["phase"] == "Paused", self._stop_pods)
        played.edit(paused=False)
        self.until(self._running, played.start_pods)
        played.lose_node(self._running()[0])
        self.until(lambda: len(self._running()) == 1)
        self.until(lambda: len(self._running()) == 2, played.start_pods)
        played.end_pods(ExitCode.REFUSED, "no")
        self.until(lambda: played.status()["phase"] == "Failed")
        played.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "3"}}})
        self.until(lambda: len(played.workflows("")) == 2)
        played.cluster.remove("workflows", played.workflows("")[0]["metadata"]["name"])
        self.until(lambda: played.status()["phase"] == "Succeeded", played.work)
        return self

    def _stop_pods(self) -> None:
        self.played.start_pods()
        self.played.end_pods(ExitCode.STOPPED)

    def _running(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.played.cluster.list("pods").items]


CALM: Final = Story().tell()


def test_the_story_has_every_kind_of_change_in_it() -> None:
    assert {name for name, _ in CALM.changes} == {*CHANGES, *(f"store {name}" for name in STORE_CHANGES)}
    assert {"CellFailed", "Succeeded"} <= CALM.played.events()


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
def test_a_death_at_any_change_costs_nothing_but_time(name: str, when: Any) -> None:
    for found, moment, number in boundaries():
        if (found, moment) != (name, when):
            continue
        story = Story(fault(name, when, number)).tell()
        assert story.deaths == 1, f"{name} {number} was never reached"
        assert sorted(story.played.ran) == sorted(CALM.played.ran), "every task ran to its end once"
        status, calm = story.played.status(), CALM.played.status()
        assert (status["counts"], status["runNumber"]) == (calm["counts"], calm["runNumber"])
