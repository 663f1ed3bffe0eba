"""`status`, `watch` and `logs` of a study on a cluster: an in-memory cluster, a running controller, simulated pods."""

import io
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator.cli.grid import render_view
from orchestrator.cli.logs import follow_logs, show_logs
from orchestrator.cli.status import document, needs_attention
from orchestrator.cli.watch import PlainLines, watch_until_over
from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.study_object import find_object
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import PlannedTask
from orchestrator.errors import NotFound, PlanRefused, Refused, StoreUnavailable
from orchestrator.monitor.connect import cluster_status_reader
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.monitor.study_view import StudyView
from orchestrator.store import Store
from orchestrator.store.addresses import attempt_key, work_root
from orchestrator.store.leases import Holder, acquire
from tests.controller.simulated_cluster import SimulatedCluster


@pytest.fixture
def simulated() -> SimulatedCluster:
    return SimulatedCluster()


def reader(simulated: SimulatedCluster) -> StatusReader:
    return StatusReader("mine", simulated.clock, store=simulated.store, cluster=simulated.cluster)


def text_of(view: StudyView) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render_view(view))
    return out.getvalue()


def training(simulated: SimulatedCluster) -> StudyView:
    """Return the study while its trunks train, each in a pod."""
    loop = simulated.controller()
    simulated.apply()
    for _ in range(10):
        simulated.step(loop)
        view = reader(simulated).read()
        if view.plan is not None and any(work.task.kind == "train" for work in view.active_tasks):
            return view
        if simulated.cluster.list("pods").items:
            simulated.clock.advance(5)
            simulated.end_pods()
        else:
            simulated.start_pods()
    raise AssertionError(text_of(reader(simulated).read()))


# status


def test_a_study_without_a_controller_is_unseen(simulated: SimulatedCluster) -> None:
    simulated.apply()
    view = reader(simulated).read()
    assert (view.phase, view.plan) == ("Unseen", None)
    shown = text_of(view)
    assert "mine in namespace studies: Unseen" in shown
    assert "none yet: no controller has reconciled it" in shown


def test_the_grid_shows_the_states_that_the_controller_uses(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    assert view.phase == "Running"
    assert [str(cell.state) for cell in view.cells] == ["running", "running"]
    assert {work.pod for work in view.active_tasks} == {pod["metadata"]["name"] for pod in simulated.cluster.list("pods").items}
    shown = text_of(view)
    assert "▶ 0/1" in shown
    assert f"pod {view.active_tasks[0].pod} for " in shown
    assert "Accepted" in shown
    assert "Progressing" in shown
    assert not needs_attention(view)


def test_a_finished_study_has_succeeded(simulated: SimulatedCluster) -> None:
    loop = simulated.controller()
    simulated.apply()
    simulated.run_to_the_end(loop)
    view = reader(simulated).read()
    assert (view.phase, {str(cell.state) for cell in view.cells}) == ("Succeeded", {"done"})
    assert document(view)["counts"]["cellsDone"] == 2


def test_the_reason_why_a_submitted_task_waits_is_shown(simulated: SimulatedCluster) -> None:
    training(simulated)
    for pod in simulated.cluster.list("pods").items:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}
        simulated.cluster.set_status("pods", pod["metadata"]["name"], {"phase": "Pending", "conditions": [condition]})
    view = reader(simulated).read()
    assert view.waits == {"Unschedulable: 0/1 nodes: no GPU": 2}
    assert "2 x Unschedulable: 0/1 nodes: no GPU" in text_of(view)


def test_a_rejected_study_shows_the_policy_rule(simulated: SimulatedCluster) -> None:
    simulated.apply(execution={})
    simulated.step(simulated.controller())
    view = reader(simulated).read()
    assert (view.phase, needs_attention(view)) == ("Refused", True)
    shown = text_of(view)
    assert "ImageMissing" in shown
    assert "no grid" not in shown, "there is nothing to wait for"


def test_conditions_of_an_older_generation_are_marked(simulated: SimulatedCluster) -> None:
    training(simulated)
    simulated.edit(budget={"gpuHours": 3})
    view = reader(simulated).read()
    assert view.phase == "Unseen"
    assert "(before its last edit)" in text_of(view)


def test_a_task_that_another_study_runs_is_awaited(simulated: SimulatedCluster) -> None:
    training(simulated)
    simulated.apply("other")
    simulated.step(simulated.controller())
    view = StatusReader("other", simulated.clock, store=simulated.store, cluster=simulated.cluster).read()
    awaited = [work for work in view.active_tasks if work.state == "awaited"]
    assert awaited
    assert awaited[0].reason == "study mine works on it"


def test_with_an_unreachable_store_the_object_gives_the_cell_states(simulated: SimulatedCluster) -> None:
    training(simulated)

    def away(_url: str) -> Store:
        raise StoreUnavailable("no credentials")

    view = cluster_status_reader(simulated.cluster, "mine", None, away).read()
    assert view.plan is None
    assert view.trouble == "its store cannot be reached from here: no credentials"
    shown = text_of(view)
    assert "Running, 0/2 cells, 3/" in shown
    assert "its store cannot be reached from here: no credentials" in shown
    assert f"{view.pods[0].name}: Running" in shown
    assert "Progressing" in shown
    assert "▶ 0/1" in shown, "the object holds the state of every cell, but not its progress"
    assert [(each.cell.name, each.state) for each in view.cells] == [
        (each.cell.name, each.state) for each in reader(simulated).read().cells
    ]


def test_cell_states_in_the_status_are_in_the_order_of_the_cells(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    simulated.cluster.set_status("pods", view.active_tasks[0].pod, {"phase": "Pending"})
    simulated.step(simulated.controller())
    assert simulated.status()["cellStates"] == "QR"
    blind = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="far away").read()
    assert [(each.cell.name, str(each.state)) for each in blind.cells] == [
        ("scratch/0.03M/c0/s1", "queued"),
        ("scratch/0.03M/c50/s1", "running"),
    ]


@pytest.mark.parametrize("letters", ["", "DD", "D", "DDD", "x."])
def test_cell_states_that_do_not_match_the_grid_are_ignored(simulated: SimulatedCluster, letters: str) -> None:
    training(simulated)
    body = find_object(simulated.cluster, "mine")
    simulated.cluster.patch_status("mine", {**body["status"], "cellStates": letters}, body["metadata"]["resourceVersion"])
    view = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="far away").read()
    assert [str(each.state) for each in view.cells] == (["done", "done"] if letters == "DD" else [])
    assert ("no grid:" in text_of(view)) == (letters != "DD")


def test_a_store_without_the_plan_is_not_used(simulated: SimulatedCluster) -> None:
    training(simulated)
    other = SimulatedCluster()
    view = StatusReader("mine", simulated.clock, store=other.store, cluster=simulated.cluster).read()
    assert view.plan is None
    assert "does not contain its plan" in view.trouble


def test_a_missing_study_is_reported(simulated: SimulatedCluster) -> None:
    with pytest.raises(NotFound, match="no study in namespace studies is called 'mine'"):
        cluster_status_reader(simulated.cluster, "mine", None)


# watch


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
    training(simulated)
    with pytest.raises(NotFound):
        watch_until_over(reader(simulated), PlainLines(lambda _: None), lambda: simulated.cluster.remove("scalingstudies", "mine"))


# logs


def logs(simulated: SimulatedCluster, what: str = "", tail: int = 0) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return show_logs(reader(simulated), what, lines.append, tail), lines


def with_logs(simulated: SimulatedCluster, view: StudyView) -> PlannedTask:
    """Give every pod a log of three lines; return the first running task."""
    for work in view.active_tasks:
        simulated.cluster.pod_logs[work.pod] = [f"{work.task.digest[:6]} step {number}" for number in range(3)]
    return view.active_tasks[0].task


def by_cell(view: StudyView) -> str:
    return view.plan.cells[0].name if view.plan else ""


@pytest.mark.parametrize("ask", [by_cell, lambda view: view.active_tasks[0].task.digest[:12], lambda view: view.active_tasks[0].pod])
def test_cell_digest_and_pod_select_the_same_log(simulated: SimulatedCluster, ask: Callable[[StudyView], str]) -> None:
    view = training(simulated)
    task = with_logs(simulated, view)
    assert logs(simulated, ask(view)) == (True, [f"{task.digest[:6]} step {number}" for number in range(3)])
    assert logs(simulated, ask(view), tail=1) == (True, [f"{task.digest[:6]} step 2"])


def test_without_a_selection_every_running_task_has_a_heading(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    with_logs(simulated, view)
    there, lines = logs(simulated)
    assert there
    heads = [line for line in lines if "==> " in line]
    assert len(heads) == len(view.active_tasks) == 2
    assert f"==> train {view.active_tasks[0].task.label}, pod {view.active_tasks[0].pod} (Running) <==" in lines


def test_the_log_of_a_deleted_pod_is_read_from_the_store(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    task = view.active_tasks[0].task
    simulated.end_pods()
    there, lines = logs(simulated, task.digest)
    assert (there, lines[0]) == (
        False,
        f"no log of {task.digest} is available: pods are deleted a minute after they end, and the store has no log. Its attempts:",
    )
    assert lines[1].endswith(": done")
    simulated.objects.put(attempt_key(work_root(task.kind, task.work), 1, "log.txt"), b"first\nlast \xff\n")
    assert logs(simulated, task.digest) == (True, ["first", "last \ufffd"])


def test_the_empty_log_of_a_later_attempt_does_not_hide_the_log_of_the_work(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    task = view.active_tasks[0].task
    simulated.end_pods()
    root = work_root(task.kind, task.work)
    simulated.objects.put(attempt_key(root, 1, "log.txt"), b"step 1\n")
    late = acquire(simulated.store, root, task.digest, Holder())
    simulated.objects.put(attempt_key(root, late.number, "log.txt"), b"")
    late.end("done", ExitCode.DONE)
    assert logs(simulated, task.digest) == (True, ["step 1"])


def test_a_task_that_has_not_started_shows_what_it_waits_for(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    assert view.plan is not None
    task = next(task for task in view.plan.tasks.values() if task.kind == "evaluate")
    assert logs(simulated, task.digest)[1] == [
        f"{task.digest} has not started:",
        f"  evaluate {task.label}: waiting for the tasks it needs",
    ]


def test_without_running_tasks_the_message_asks_for_a_selection(simulated: SimulatedCluster) -> None:
    loop = simulated.controller()
    simulated.apply()
    simulated.run_to_the_end(loop)
    there, lines = logs(simulated)
    assert not there
    assert lines == ["mine: no task is running (Succeeded). Name a cell, a digest or a pod to see its logs."]


def test_a_container_that_has_not_started_is_not_an_error(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    simulated.cluster.faults.append(ClusterFault("logs", error=lambda: Refused('container "main" is waiting to start: PodInitializing')))
    assert logs(simulated, view.active_tasks[0].pod) == (True, ["(it has not started)"])


def test_an_unknown_cell_names_existing_cells(simulated: SimulatedCluster) -> None:
    training(simulated)
    with pytest.raises(PlanRefused, match=r"'scratch/1B/s1' is not a cell of mine\. Cells are, for example: scratch/0.03M/c0/s1"):
        logs(simulated, "scratch/1B/s1")


def test_without_the_store_pods_and_digests_still_select_logs(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    task = with_logs(simulated, view)
    blind = StatusReader("mine", simulated.clock, store=None, cluster=simulated.cluster, trouble="its store is far away")
    lines: list[str] = []
    assert show_logs(blind, task.digest[:12], lines.append)
    assert lines == [f"{task.digest[:6]} step {number}" for number in range(3)]
    with pytest.raises(PlanRefused, match="its cells and tasks are unknown here: its store is far away"):
        show_logs(blind, "scratch/0.03M/c0/s1", lines.append)


def join_readers(simulated: SimulatedCluster) -> None:
    """Wait until the threads that read logs have ended; a stream of the simulated cluster ends after its last line."""
    pods = {pod["metadata"]["name"] for pod in simulated.cluster.list("pods").items}
    for thread in threading.enumerate():
        if thread.name in pods:
            thread.join(30)


def test_follow_reads_new_pods_and_ends_with_the_study(simulated: SimulatedCluster) -> None:
    loop, lines = simulated.controller(), list[str]()
    simulated.apply()
    looking = reader(simulated)

    def pause() -> None:
        if simulated.cluster.list("pods").items:
            simulated.end_pods()
        simulated.step(loop)
        simulated.start_pods()
        for pod in simulated.cluster.list("pods").items:
            name = pod["metadata"]["name"]
            simulated.cluster.pod_logs.setdefault(name, [f"{name} begins", f"{name} ends"])

    follow_logs(looking, "", lines.append, pause)
    assert len(lines) == len(set(lines)) == 2 * len(simulated.cluster.pod_logs), "every line once"
    assert all(line.startswith(("[prepare ", "[train scratch/0.03M/", "[evaluate scratch/0.03M/")) for line in lines)


def test_follow_continues_an_interrupted_stream(simulated: SimulatedCluster) -> None:
    """The simulated cluster ends a stream after its last line, as an interrupted connection does."""
    view = training(simulated)
    pod, lines, looks = view.active_tasks[0].pod, list[str](), list[int]()

    def pause() -> None:
        join_readers(simulated)
        looks.append(1)
        said = [f"step {number}" for number in range(len(looks))]
        simulated.cluster.pod_logs[pod] = said
        if len(looks) == 6:
            simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause)
    assert lines == [f"step {number}" for number in range(6)], "each once, including the last ones of an ended pod"


def test_follow_reads_a_pod_that_ran_between_two_polls(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    pod, lines = view.active_tasks[0].pod, list[str]()
    simulated.cluster.set_status("pods", pod, {"phase": "Pending"})

    def pause() -> None:
        simulated.cluster.pod_logs[pod] = ["begins", "ends"]
        simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause)
    assert lines == ["begins", "ends"]


def test_follow_with_tail_prints_every_later_line(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    pod, lines, looks = view.active_tasks[0].pod, list[str](), list[int]()
    said = simulated.cluster.pod_logs[pod] = [f"step {number}" for number in range(5)]

    def pause() -> None:
        join_readers(simulated)
        looks.append(1)
        if len(looks) == 2:
            said.extend(f"step {number}" for number in range(5, 9))
            simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause, tail=2)
    assert lines == [f"step {number}" for number in range(3, 9)]


def test_follow_ends_when_standard_output_is_closed(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    with_logs(simulated, view)

    def closed(_line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow_logs(reader(simulated), "", closed, lambda: join_readers(simulated))


def test_follow_of_a_finished_task_prints_its_log(simulated: SimulatedCluster) -> None:
    view = training(simulated)
    pod, task, lines = view.active_tasks[0].pod, view.active_tasks[0].task, list[str]()
    simulated.cluster.pod_logs[pod] = ["begins", "ends"]
    simulated.end_pods()
    follow_logs(reader(simulated), task.digest, lines.append, lambda: None, tail=1)
    assert lines[0].startswith(f"no log of {task.digest} is available")
    simulated.objects.put(attempt_key(work_root(task.kind, task.work), 1, "log.txt"), b"first\nlast\n")
    lines.clear()
    follow_logs(reader(simulated), task.digest, lines.append, lambda: None, tail=1)
    assert lines == ["last"]


def test_follow_without_a_cluster_names_the_option(simulated: SimulatedCluster) -> None:
    training(simulated)
    with pytest.raises(PlanRefused, match="-n names the study's namespace"):
        follow_logs(StatusReader("mine", simulated.clock, store=simulated.store), "", lambda _: None, lambda: None)
