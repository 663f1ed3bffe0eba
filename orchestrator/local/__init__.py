"""Runs a plan on this machine, in worker processes: `run_plan`.

`schedule` decides what comes next (pure), `workers` are the processes, `run` joins the two. The command line's `run` calls it; on a
cluster `reconcile` takes its place, with the same tasks, exit codes and records. Nothing here imports torch.
"""

from orchestrator.local.run import RunResult, run_plan
from orchestrator.local.schedule import held_back, in_order, wanted_tasks
from orchestrator.local.workers import StopRequest, cores

__all__ = ["RunResult", "StopRequest", "cores", "held_back", "in_order", "run_plan", "wanted_tasks"]
