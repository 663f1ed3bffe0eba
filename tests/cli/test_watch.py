"""`watch` of a study on a cluster."""

import pytest

from orchestrator.cli.watch import PlainLines, watch_until_over
from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import NotFound
from tests.cli.cluster_study import reader, run_until_training
from tests.controller.simulated_cluster import SimulatedCluster


def test_watch_prints_every_change_and_ends_when_the_study_is_done(simulated: SimulatedCluster) -> None:
    loop, lines = simulated.controller(), list[str]()
    simulated.apply()

    def pause() -> None:
        simulated.step(loop)
        simulated.work()

    assert watch_until_over(reader(simulated), PlainLines(lines.append), pause)
    assert "mine: Unseen" in lines[0]
    assert "mine: Succeeded, 2/2 cells; tasks: " in "".join(lines)
    assert sum("is done" in line for line in lines) == 2
    assert len(lines) == len(set(lines))


def test_watch_of_a_failing_study_returns_failure(simulated: SimulatedCluster) -> None:
    loop = simulated.controller()
    simulated.apply()

    def pause() -> None:
        simulated.step(loop)
        simulated.start_pods()
        simulated.end_pods(ExitCode.REFUSED, "shard 3 has another hash")

    lines: list[str] = []
    assert not watch_until_over(reader(simulated), PlainLines(lines.append), pause)
    assert "mine: Failed" in lines[-1] or "has failed" in lines[-1]


def test_watch_survives_an_unreachable_cluster(simulated: SimulatedCluster) -> None:
    loop, lines = simulated.controller(), list[str]()
    simulated.apply()

    def pause() -> None:
        simulated.step(loop)
        simulated.work()
        if not any("out of date" in line for line in lines):
            simulated.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", times=2))

    assert watch_until_over(reader(simulated), PlainLines(lines.append), pause)
    assert sum("the view is out of date" in line for line in lines) == 1, "the same error is noted once"


def test_watch_ends_when_the_study_is_deleted(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    with pytest.raises(NotFound):
        watch_until_over(reader(simulated), PlainLines(lambda _: None), lambda: simulated.cluster.remove("scalingstudies", "mine"))
