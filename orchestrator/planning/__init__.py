"""Turn a study into a plan: tasks with one digest each, and cells that refer to them.

`build` collects the tasks, `chain` walks a cell's stages, `defaults` fills in what the file leaves open. Pure.
"""

from orchestrator.planning.build import UNKNOWN, cell_name, is_runnable, plan_study

__all__ = ["UNKNOWN", "cell_name", "is_runnable", "plan_study"]
