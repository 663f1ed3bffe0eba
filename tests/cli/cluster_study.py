"""A study on a simulated cluster, its view, and the text that the commands print."""

import io

from rich.console import Console

from orchestrator.cli.grid import render_view
from orchestrator.contract.plan import PlannedTask
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.monitor.study_view import StudyView
from tests.controller.simulated_cluster import SimulatedCluster


def reader(simulated: SimulatedCluster) -> StatusReader:
    return StatusReader("mine", simulated.clock, store=simulated.store, cluster=simulated.cluster)


def text_of(view: StudyView) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render_view(view))
    return out.getvalue()


def run_until_training(simulated: SimulatedCluster) -> StudyView:
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


def write_pod_logs(simulated: SimulatedCluster, view: StudyView) -> PlannedTask:
    """Give every pod a log of three lines; return the first running task."""
    for work in view.active_tasks:
        simulated.cluster.pod_logs[work.pod] = [f"{work.task.digest[:6]} step {number}" for number in range(3)]
    return view.active_tasks[0].task
