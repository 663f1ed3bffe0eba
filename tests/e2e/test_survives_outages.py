"""Resilience against outages that affect all studies: of nodes, the API server, Argo's controller, the store and the controller.

Two lanes run in parallel, each with one trial at a time: one powers the second node off, the other interrupts services. E2E_CLUSTER is the
path of the program that starts the machines of the cluster.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.contract.exits import ExitCode
from orchestrator.store.records import find_record
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.survival import BRANCHED, TINY, Controller, Sandbox, cluster, disturbing, frozen, process_of, ready, within

pytestmark = pytest.mark.cluster

SECOND = "second"
Outage = Callable[[Sandbox, Controller], None]
LANES: tuple[dict[str, Outage], dict[str, Outage]] = {}, {}
NODES, SERVICES = LANES


def on(lane: dict[str, Outage]) -> Callable[[Outage], Outage]:
    def keep(run: Outage) -> Outage:
        lane[run.__name__] = run
        return run

    return keep


@pytest.fixture(scope="module")
def outcomes(sandbox: Sandbox, controller: Controller, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    selected = {item.callspec.params["name"] for item in request.session.items if item.module is request.module}  # type: ignore[attr-defined]
    if selected & NODES.keys():
        cluster("add-node", SECOND)  # no effect if the node is running
        within(90, lambda: ready(SECOND), "the second node is ready")
        sandbox.kubectl.run("uncordon", SECOND)
    nodes, services = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    lanes = zip((nodes, services), LANES, strict=True)
    yield {name: thread.submit(run, sandbox, controller) for thread, lane in lanes for name, run in lane.items() if name in selected}
    for thread in (nodes, services):
        thread.shutdown(cancel_futures=True)


@on(NODES)
def cordoned_node_finishes_its_pods_and_later_tasks_wait_with_the_reason(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    study = sandbox.applied("cordoned", BRANCHED, node=SECOND)
    study.wait_for_checkpoint()
    sandbox.kubectl.run("cordon", SECOND)
    try:
        first, second = study.trains
        eventually(lambda: find_record(study.store, first), "the running task is done")
        eventually(lambda: "Unschedulable" in study.condition("Progressing")["message"], "the reason why the next task waits")
        assert not study.leases(second)
    finally:
        sandbox.kubectl.run("uncordon", SECOND)
    study.wait_for_success()


@on(NODES)
def power_failure_of_a_node_loses_only_work_since_the_checkpoint(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    study = sandbox.applied("power", node=SECOND)
    study.wait_for_checkpoint()
    with disturbing(f"node {SECOND} is powered off and on"):
        cluster("power-off", SECOND)
        cluster("add-node", SECOND)
    study.wait_for_success()
    first, second = study.leases()
    assert first.ended is None, "the killed process could not end its lease"
    assert second.from_tokens > 0


@on(NODES)
def pod_on_a_permanently_lost_node_is_replaced_on_another_node(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    """Kubernetes keeps the pod Terminating and Argo waits for it; the controller deletes it a minute after its grace period."""
    label = f"scaling-study.dev/{sandbox.kubectl.namespace}"
    sandbox.kubectl.run("label", "node", SECOND, f"{label}=yes", "--overwrite")
    study = sandbox.applied("for-good", execution={"nodeSelector": {label: "yes"}})
    # prepare everything before the power-off, because the training takes only ten seconds
    eventually(lambda: [pod for pod in study.pods() if pod["spec"].get("nodeName") == SECOND], "its pod is on the second node")
    sandbox.kubectl.run("label", "node", sandbox.main_node, f"{label}=yes", "--overwrite")
    study.wait_for_checkpoint()
    with disturbing(f"node {SECOND} is off"):
        cluster("power-off", SECOND)
        try:
            study.wait_for_success()
        finally:
            cluster("add-node", SECOND)
    first, second = study.leases()
    assert (first.ended, second.from_tokens > 0) == (None, True)
    assert "Preempted" in study.events()


@on(SERVICES)
def controller_killed_three_times_continues(sandbox: Sandbox, controller: Controller) -> None:
    study = sandbox.applied("killed", BRANCHED)
    first, second = study.trains
    eventually(study.workflows, "the first Workflow")
    controller.kill()
    controller.start()
    study.wait_for_checkpoint(first)
    controller.kill()
    controller.start()
    eventually(lambda: study.leases(second), "the last task has begun")
    controller.kill()
    controller.start()
    study.wait_for_success()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def standby_controller_takes_over_from_a_killed_one(sandbox: Sandbox, controller: Controller) -> None:
    other = Controller(sandbox.kubectl.namespace, sandbox.folder / "other.log", "--identity", "other").start()
    try:
        eventually(controller.leads, "the first controller is the leader")
        eventually(lambda: b"namespace" in other.log.read_bytes(), "the other controller is running")
        assert not other.leads(), "only one of two controllers is the leader"
        study = sandbox.applied("taken-over", TINY)
        controller.kill()
        study.wait_for_success()
        assert other.leads()
        assert len(study.leases()) == 1
    finally:
        other.stop()
        controller.start()


@on(SERVICES)
def api_server_outage_of_half_a_minute_loses_no_work(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    study = sandbox.applied("api", BRANCHED)
    study.wait_for_checkpoint()
    with disturbing("the API server is unavailable for 30 s"), frozen(process_of("kube-apiserver"), 30):
        pass
    study.wait_for_success()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def restart_of_argos_controller_loses_no_work(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    study = sandbox.applied("argo", BRANCHED)
    study.wait_for_checkpoint()
    # kill its process, not its pod, because a new pod could be placed on the node that another trial powers off
    with disturbing("Argo's controller is restarted"):
        os.kill(process_in_a_pod("workflow-controller"), signal.SIGKILL)
        Kubectl("argo").run("rollout", "status", "deployment/workflow-controller", "--timeout=120s")
    study.wait_for_success()
    assert [len(study.leases(digest)) for digest in study.trains] == [1, 1]


@on(SERVICES)
def store_outage_of_a_minute_loses_only_work_since_the_checkpoint(sandbox: Sandbox, controller: Controller) -> None:  # noqa: ARG001
    study = sandbox.applied("store", BRANCHED)
    study.wait_for_checkpoint()
    with disturbing("the S3 server is unavailable for a minute"), frozen(process_in_a_pod("versitygw"), 60):
        pass
    study.wait_for_success()
    assert study.condition("Degraded")["status"] == "False"
    for digest in study.trains:
        codes = [lease.ended.code if lease.ended else None for lease in study.leases(digest)]
        assert codes[-1] == ExitCode.DONE
        assert codes.count(ExitCode.FAILED) <= 1, "an outage of a minute causes at most one failure; three end a task"


def process_in_a_pod(name: str) -> int:
    """Return the id of a process that runs in a container on this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(name.encode()):
                return int(folder.name)
    pytest.skip(f"{name} is not a process of this machine")


@pytest.mark.parametrize("name", [name for lane in LANES for name in lane])
def test_study_survives_the_outage(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
