"""`logs --follow` of a study on a cluster: new pods, interrupted streams, and the end."""

import threading

import pytest

from orchestrator.cli.logs import follow_logs
from orchestrator.errors import PlanRefused
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.store.addresses import attempt_key, work_root
from tests.cli.cluster_study import reader, run_until_training, write_pod_logs
from tests.controller.simulated_cluster import SimulatedCluster


def join_readers(simulated: SimulatedCluster) -> None:
    """Wait until the threads that read logs have ended; a stream of the simulated cluster ends after its last line."""
    pods = {pod["metadata"]["name"] for pod in simulated.cluster.list("pods").items}
    for thread in threading.enumerate():
        if thread.name in pods:
            thread.join(30)


def test_follow_reads_new_pods_and_ends_with_the_study(simulated: SimulatedCluster) -> None:
    loop, lines = simulated.controller(), list[str]()
    simulated.apply()
    status_reader = reader(simulated)

    def pause() -> None:
        if simulated.cluster.list("pods").items:
            simulated.end_pods()
        simulated.step(loop)
        simulated.start_pods()
        for pod in simulated.cluster.list("pods").items:
            name = pod["metadata"]["name"]
            simulated.cluster.pod_logs.setdefault(name, [f"{name} begins", f"{name} ends"])

    follow_logs(status_reader, "", lines.append, pause)
    assert len(lines) == len(set(lines)) == 2 * len(simulated.cluster.pod_logs), "every line once"
    assert all(line.startswith(("[prepare ", "[train scratch/0.03M/", "[evaluate scratch/0.03M/")) for line in lines)


def test_follow_continues_an_interrupted_stream(simulated: SimulatedCluster) -> None:
    """The simulated cluster ends a stream after its last line, as an interrupted connection does."""
    view = run_until_training(simulated)
    pod, lines, polls = view.active_tasks[0].pod, list[str](), list[int]()

    def pause() -> None:
        join_readers(simulated)
        polls.append(1)
        log = [f"step {number}" for number in range(len(polls))]
        simulated.cluster.pod_logs[pod] = log
        if len(polls) == 6:
            simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause)
    assert lines == [f"step {number}" for number in range(6)], "each once, including the last ones of an ended pod"


def test_follow_reads_a_pod_that_ran_between_two_polls(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    pod, lines = view.active_tasks[0].pod, list[str]()
    simulated.cluster.set_status("pods", pod, {"phase": "Pending"})

    def pause() -> None:
        simulated.cluster.pod_logs[pod] = ["begins", "ends"]
        simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause)
    assert lines == ["begins", "ends"]


def test_follow_with_tail_prints_every_later_line(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    pod, lines, polls = view.active_tasks[0].pod, list[str](), list[int]()
    log = simulated.cluster.pod_logs[pod] = [f"step {number}" for number in range(5)]

    def pause() -> None:
        join_readers(simulated)
        polls.append(1)
        if len(polls) == 2:
            log.extend(f"step {number}" for number in range(5, 9))
            simulated.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(reader(simulated), pod, lines.append, pause, tail=2)
    assert lines == [f"step {number}" for number in range(3, 9)]


def test_follow_ends_when_standard_output_is_closed(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
    write_pod_logs(simulated, view)

    def closed(_line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow_logs(reader(simulated), "", closed, lambda: join_readers(simulated))


def test_follow_of_a_finished_task_prints_its_log(simulated: SimulatedCluster) -> None:
    view = run_until_training(simulated)
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
    run_until_training(simulated)
    with pytest.raises(PlanRefused, match="-n names the study's namespace"):
        follow_logs(StatusReader("mine", simulated.clock, store=simulated.store), "", lambda _: None, lambda: None)
