"""Run a plan on this machine in worker processes: `run_plan`.

`schedule` selects the next task (pure), `workers` manages the processes, `run` connects both. The `run` command calls it. On a cluster,
`reconcile` does the same with the same tasks, exit codes and records. Nothing here imports torch.
"""

from orchestrator.local.run import RunResult, run_plan
from orchestrator.local.schedule import held_back, in_order, wanted_tasks
from orchestrator.local.workers import StopRequest, cores

__all__ = ["RunResult", "StopRequest", "cores", "held_back", "in_order", "run_plan", "wanted_tasks"]
