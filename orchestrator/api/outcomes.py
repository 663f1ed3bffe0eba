"""Results of the API's functions."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ScalingStudyError
from orchestrator.planning import is_runnable
from orchestrator.planning.summary import PlanSummary, TaskRow, task_rows

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.contract.plan import Plan, PlannedTask
    from orchestrator.local import RunResult
    from orchestrator.store import Store


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A plan and its summary: the cells and tasks, and what they cost."""

    plan: "Plan"
    summary: PlanSummary
    done: frozenset[str] = frozenset()
    """Digests of the completed tasks, empty when the store was not asked."""

    @property
    def tasks(self) -> list[TaskRow]:
        """Every task, each after all that it needs."""
        return task_rows(self.plan, self.done)

    @property
    def is_runnable(self) -> bool:
        """Whether the content of every source is known."""
        return is_runnable(self.plan)


@dataclass(frozen=True, slots=True)
class RunPreview:
    """The tasks that a run would execute, in the order of one worker. `blocker`: the error that the run would raise, if any."""

    study: str
    store: str
    tasks: int
    done: int
    pending: "tuple[PlannedTask, ...]"
    blocker: ScalingStudyError | None = None


@dataclass(frozen=True, slots=True)
class StudyReport:
    """A written report.

    `is_current`: the study file still asks for the plan that the report describes. `holes`: a message per task whose record is damaged, or
    was lost since the task was done; the report counts it as missing, and the next run repeats it.
    """

    page: Path
    is_current: bool = True
    holes: tuple[str, ...] = ()

    def runs(self) -> "pd.DataFrame":
        """Return the results: one row per task and metric."""
        return _read_table(self.page.parent / "runs.parquet")

    def cells(self) -> "pd.DataFrame":
        """Return the grid: one row per cell, stage and task."""
        return _read_table(self.page.parent / "cells.parquet")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    `plan`: None if a remote run ended before it had one. `report`: None if the run was stopped or the report could not be written.
    `trouble`: why the run ended although no task failed, "" for none.
    """

    store: "Store"
    plan: "Plan | None"
    result: "RunResult"
    report: StudyReport | None = None
    trouble: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every wanted task has a record."""
        return self.plan is not None and not self.trouble and self.result.is_complete


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)
