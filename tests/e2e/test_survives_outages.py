"""What the product survives of what disturbs everybody: nodes, the API server, Argo's controller, the store, the controller itself.

Two lanes run side by side, each one trial after the other: one switches the second node off, the other takes services away for a while.
Needs a cluster whose machines can be reached: E2E_CLUSTER names the program that starts them.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.contract.vocabulary import ExitCode
from orchestrator.store.records import find_record
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.survival import BRANCHED, TINY, Controller, Ground, cluster, disturbing, frozen, process_of, ready, within

pytestmark = pytest.mark.cluster

SECOND = "second"
Outage = Callable[[Ground, Controller], None]
LANES: tuple[dict[str, Outage], dict[str, Outage]] = {}, {}
NODES, SERVICES = LANES


def on(lane: dict[str, Outage]) -> Callable[[Outage], Outage]:
    def keep(run: Outage) -> Outage:
        lane[run.__name__] = run
        return run

    return keep


@pytest.fixture(scope="module")
def outcomes(ground: Ground, controller: Controller, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    asked = {item.callspec.params["name"] for item in request.session.items if item.module is request.module}  # type: ignore[attr-defined]
    if asked & NODES.keys():
        cluster("add-node", SECOND)  # which does nothing when it runs
        within(90, lambda: ready(SECOND), "the second node is ready")
        ground.kubectl.run("uncordon", SECOND)
    nodes, services = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    lanes = zip((nodes, services), LANES, strict=True)
    yield {name: thread.submit(run, ground, controller) for thread, lane in lanes for name, run in lane.items() if name in asked}
    for thread in (nodes, services):
        thread.shutdown(cancel_futures=True)


@on(NODES)
def a_node_cordoned_in_mid_run_ends_what_it_has_and_the_rest_waits_with_the_reason(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    study = ground.applied("cordoned", BRANCHED, node=SECOND)
    study.is_under_way()
    ground.kubectl.run("cordon", SECOND)
    try:
        first, second = study.trains
        eventually(lambda: find_record(study.store, first), "what runs there is done")
        eventually(lambda: "Unschedulable" in study.condition("Progressing")["message"], "why the next one waits")
        assert not study.leases(second)
    finally:
        ground.kubectl.run("uncordon", SECOND)
    study.succeeds()


@on(NODES)
def a_node_that_loses_its_power_and_comes_back_costs_what_was_not_kept(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    study = ground.applied("power", node=SECOND)
    study.is_under_way()
    with disturbing(f"node {SECOND} is switched off and on"):
        cluster("power-off", SECOND)
        cluster("add-node", SECOND)
    study.succeeds()
    first, second = study.leases()
    assert first.ended is None, "it had no time for a word"
    assert second.from_tokens > 0


@on(NODES)
def a_node_that_is_gone_for_good_loses_its_pod_and_the_study_goes_on_elsewhere(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    """Kubernetes leaves the pod Terminating and Argo waits for ever: the controller deletes it after its grace and a minute."""
    label = f"scaling-study.dev/{ground.kubectl.namespace}"
    ground.kubectl.run("label", "node", SECOND, f"{label}=yes", "--overwrite")
    study = ground.applied("for-good", execution={"nodeSelector": {label: "yes"}})
    # all but the switching off is done before: the training takes ten seconds
    eventually(lambda: [pod for pod in study.pods() if pod["spec"].get("nodeName") == SECOND], "its pod is there")
    ground.kubectl.run("label", "node", ground.here, f"{label}=yes", "--overwrite")
    study.is_under_way()
    with disturbing(f"node {SECOND} is off"):
        cluster("power-off", SECOND)
        try:
            study.succeeds()
        finally:
            cluster("add-node", SECOND)
    first, second = study.leases()
    assert (first.ended, second.from_tokens > 0) == (None, True)
    assert "Preempted" in study.events()


@on(SERVICES)
def a_controller_killed_at_three_moments_goes_on_where_it_was(ground: Ground, controller: Controller) -> None:
    study = ground.applied("killed", BRANCHED)
    first, second = study.trains
    eventually(study.workflows, "the first Workflow")
    controller.kill()
    controller.start()
    study.is_under_way(first)
    controller.kill()
    controller.start()
    eventually(lambda: study.leases(second), "the last task has begun")
    controller.kill()
    controller.start()
    study.succeeds()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def a_controller_that_stands_by_takes_over_from_one_that_is_killed(ground: Ground, controller: Controller) -> None:
    other = Controller(ground.kubectl.namespace, ground.folder / "other.log", "--identity", "other").start()
    try:
        eventually(controller.leads, "the first leads")
        eventually(lambda: b"namespace" in other.log.read_bytes(), "the other runs")
        assert not other.leads(), "one of two leads"
        study = ground.applied("taken-over", TINY)
        controller.kill()
        study.succeeds()
        assert other.leads()
        assert len(study.leases()) == 1
    finally:
        other.stop()
        controller.start()


@on(SERVICES)
def an_api_server_away_for_half_a_minute_costs_nothing_but_time(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    study = ground.applied("api", BRANCHED)
    study.is_under_way()
    with disturbing("the API server does not answer for 30 s"), frozen(process_of("kube-apiserver"), 30):
        pass
    study.succeeds()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def argos_controller_restarted_costs_nothing_but_time(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    study = ground.applied("argo", BRANCHED)
    study.is_under_way()
    # its process and not its pod: a new pod could come to the node that another trial switches off
    with disturbing("Argo's controller is started again"):
        os.kill(process_in_a_pod("workflow-controller"), signal.SIGKILL)
        Kubectl("argo").run("rollout", "status", "deployment/workflow-controller", "--timeout=120s")
    study.succeeds()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def a_store_away_for_a_minute_costs_what_was_not_kept(ground: Ground, controller: Controller) -> None:  # noqa: ARG001
    study = ground.applied("store", BRANCHED)
    study.is_under_way()
    with disturbing("the S3 server does not answer for a minute"), frozen(process_in_a_pod("versitygw"), 60):
        pass
    study.succeeds()
    assert study.condition("Degraded")["status"] == "False"
    for digest in study.trains:
        codes = [lease.ended.code if lease.ended else None for lease in study.leases(digest)]
        assert codes[-1] == ExitCode.DONE
        assert codes.count(ExitCode.FAILED) <= 1, "one minute is one failure at most, and three end a task"


def process_in_a_pod(name: str) -> int:
    """A program of the cluster that runs in a container of this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(name.encode()):
                return int(folder.name)
    pytest.skip(f"{name} is no process of this machine")


@pytest.mark.parametrize("name", [name for lane in LANES for name in lane])
def test_it_survives(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
