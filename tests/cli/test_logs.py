"""`logs` of a study on a cluster: selection of pods, and logs of deleted pods from the store."""

from collections.abc import Callable

import pytest

from orchestrator.cli.logs import show_logs
from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import PlanRefused, Refused
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.monitor.study_view import StudyView
from orchestrator.store.addresses import attempt_key, work_root
from orchestrator.store.leases import Holder, acquire
from tests.cli.cluster_study import reader, run_until_training, write_pod_logs
from tests.controller.simulated_cluster import SimulatedCluster


def logs(simulated: SimulatedCluster, what: str = "", tail: int = 0) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return show_logs(reader(simulated), what, lines.append, tail), lines


def by_cell(view: StudyView) -> str:
    return view.plan.cells[0].name if view.plan else ""


@pytest.mark.parametrize("ask", [by_cell, lambda view: view.active_tasks[0].task.digest[:12], lambda view: view.active_tasks[0].pod])
def test_cell_digest_and_pod_select_the_same_log(simulated: SimulatedCluster, ask: Callable[[StudyView], str]) -> None:
    view = run_until_training(simulated)
    task = write_pod_logs(simulated, view)
    assert logs(simulated, ask(view)) == (True, [f"{task.digest[:6]} step {number}" for number in range(3)])
    assert logs(simulated, ask(view), tail=1) == (True, [f"{task.digest[:6]} step 2"])


def test_logs_without_a_selection_have_a_heading_per_running_task(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    write_pod_logs(simulated, view)
    found, lines = logs(simulated)
    assert found
    headings = [line for line in lines if "==> " in line]
    assert len(headings) == len(view.active_tasks) == 2
    assert f"==> train {view.active_tasks[0].task.label}, pod {view.active_tasks[0].pod} (Running) <==" in lines


def test_the_log_of_a_deleted_pod_is_read_from_the_store(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    task = view.active_tasks[0].task
    simulated.end_pods()
    found, lines = logs(simulated, task.digest)
    assert (found, lines[0]) == (
        False,
        f"no log of {task.digest} is available: pods are deleted a minute after they end, and the store has no log. Its attempts:",
    )
    assert lines[1].endswith(": done")
    simulated.objects.put(attempt_key(work_root(task.kind, task.work), 1, "log.txt"), b"first\nlast \xff\n")
    assert logs(simulated, task.digest) == (True, ["first", "last \ufffd"])


def test_an_empty_log_of_a_later_attempt_does_not_hide_the_log_of_an_earlier_one(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    task = view.active_tasks[0].task
    simulated.end_pods()
    root = work_root(task.kind, task.work)
    simulated.objects.put(attempt_key(root, 1, "log.txt"), b"step 1\n")
    late = acquire(simulated.store, root, task.digest, Holder())
    simulated.objects.put(attempt_key(root, late.number, "log.txt"), b"")
    late.end("done", ExitCode.DONE)
    assert logs(simulated, task.digest) == (True, ["step 1"])


def test_a_task_that_has_not_started_shows_what_it_waits_for(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    assert view.plan is not None
    task = next(task for task in view.plan.tasks.values() if task.kind == "evaluate")
    assert logs(simulated, task.digest)[1] == [
        f"{task.digest} has not started:",
        f"  evaluate {task.label}: waiting for the tasks it needs",
    ]


def test_logs_without_running_tasks_suggest_a_selection(simulated: SimulatedCluster) -> None:
    loop = simulated.controller()
    simulated.apply()
    simulated.run_to_the_end(loop)
    found, lines = logs(simulated)
    assert not found
    assert lines == ["mine: no task is running (Succeeded). Name a cell, a digest or a pod to see its logs."]


def test_a_container_that_has_not_started_is_not_an_error(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    simulated.cluster.faults.append(ClusterFault("logs", error=lambda: Refused('container "main" is waiting to start: PodInitializing')))
    assert logs(simulated, view.active_tasks[0].pod) == (True, ["(it has not started)"])


def test_an_unknown_cell_names_existing_cells(simulated: SimulatedCluster) -> None:
    run_until_training(simulated)
    with pytest.raises(PlanRefused, match=r"'scratch/1B/s1' is not a cell of mine\. Cells are, for example: scratch/0.03M/c0/s1"):
        logs(simulated, "scratch/1B/s1")


def test_a_pod_or_a_digest_selects_logs_while_the_store_is_unreachable(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    task = write_pod_logs(simulated, view)
    without_store = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="its store is unreachable")
    lines: list[str] = []
    assert show_logs(without_store, task.digest[:12], lines.append)
    assert lines == [f"{task.digest[:6]} step {number}" for number in range(3)]
    with pytest.raises(PlanRefused, match="its cells and tasks are unknown here: its store is unreachable"):
        show_logs(without_store, "scratch/0.03M/c0/s1", lines.append)
