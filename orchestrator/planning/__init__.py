"""Turns a study into a plan: tasks with one digest each, and cells that point into them.

`build` collects the tasks, `chain` walks a cell's stages, `settle` fills in what the file leaves open. All of it is pure.
"""

from orchestrator.planning.build import UNKNOWN, cell_name, is_runnable, plan_study

__all__ = ["UNKNOWN", "cell_name", "is_runnable", "plan_study"]
