"""The grid of a study as tables: one table per recipe, sizes x code percent, with all seeds combined in one square.

`study_view` computes it from plan, task states and leases; `cli.grid` draws it. Pure: no store, cluster or clock access.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.plan import Cell, Plan, PlannedTask
from orchestrator.planning.estimate import DEFAULT_MFU, Price, costs
from orchestrator.reconcile.pace import remaining_fraction, speeds
from orchestrator.reconcile.status import cell_state
from orchestrator.reconcile.task_states import TaskState, TaskStatus

FIXED: Final = ""
"""The column label of a recipe with fixed proportions."""

# Precedence of states when the seeds of a square differ: states that need attention first, then the most advanced
_FIRST: Final = (
    TaskState.FAILED,
    TaskState.STALLED,
    TaskState.RUNNING,
    TaskState.STOPPING,
    TaskState.QUEUED,
    TaskState.AWAITED,
    TaskState.WAITING,
    TaskState.DONE,
)
_AT_WORK: Final = frozenset({TaskState.RUNNING, TaskState.STALLED, TaskState.STOPPING, TaskState.AWAITED})


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """The last attempt at an unfinished task.

    `tokens`: its position on the trajectory, or that of its checkpoint if it has ended. `trained`: tokens that it trained in `seconds`.
    """

    tokens: int = 0
    trained: int = 0
    seconds: float = 0.0
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class CellProgress:
    """State and progress of a cell.

    `progress`: finished fraction of its FLOPs, 0 to 1. `seconds_left`: None unless a task of it runs and its speed is known.
    """

    cell: Cell
    state: TaskState
    progress: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Square:
    """The cells of one size and code percentage, one per seed. `seconds_left`: the longest among those that run."""

    size: str
    code_percent: str
    state: TaskState
    done: int
    total: int
    progress: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class RecipeGrid:
    """Squares by (size, code percent); combinations that the recipe excludes are missing."""

    recipe: str
    sizes: tuple[str, ...]
    code_percents: tuple[str, ...]
    squares: Mapping[tuple[str, str], Square]


def recipe_grids(cells: Iterable[CellProgress]) -> tuple[RecipeGrid, ...]:
    """Return one table per recipe, in the order of the plan."""
    by_recipe: dict[str, dict[tuple[str, str], list[CellProgress]]] = {}
    for progress in cells:
        cell = progress.cell
        by_recipe.setdefault(cell.recipe, {}).setdefault((cell.size, cell.code_percent or FIXED), []).append(progress)
    return tuple(
        RecipeGrid(
            recipe,
            tuple(dict.fromkeys(size for size, _ in squares)),
            tuple(dict.fromkeys(percent for _, percent in squares)),
            {place: _square(place, members) for place, members in squares.items()},
        )
        for recipe, squares in by_recipe.items()
    )


def _square(place: tuple[str, str], members: Sequence[CellProgress]) -> Square:
    states = {member.state for member in members}
    left = [member.seconds_left for member in members if member.seconds_left is not None]
    return Square(
        size=place[0],
        code_percent=place[1],
        state=next(state for state in _FIRST if state in states),
        done=sum(member.state == TaskState.DONE for member in members),
        total=len(members),
        progress=sum(member.progress for member in members) / len(members),
        seconds_left=max(left, default=None),
    )


def cells_from_states(cells: Sequence[Cell], states: Sequence[TaskState]) -> list[CellProgress]:
    """Return cells whose state alone is known, because the store is unreachable."""
    return [CellProgress(cell, state, float(state == TaskState.DONE)) for cell, state in zip(cells, states, strict=True)]


class ProgressEstimate:
    """Estimate progress and remaining time of a plan's cells from task states and the attempts at unfinished tasks.

    Work is counted in FLOPs, because a step costs more on a larger model. Remaining time assumes the speed of the running attempts.
    """

    def __init__(self, plan: Plan, tasks: Mapping[str, TaskStatus], attempts: Mapping[str, AttemptProgress]) -> None:
        price = Price("h100", DEFAULT_MFU, None, {})
        self._plan = plan
        self._tasks = tasks
        self._flops = {digest: found.flops for digest, found in costs(plan, price).items()}
        self._left = {digest: self._flops_left(task, attempts.get(digest)) for digest, task in plan.tasks.items()}
        self._live = [digest for digest, attempt in attempts.items() if attempt.is_live and plan.tasks[digest].kind == "train"]
        self._speeds = speeds(plan, self._flops, ((digest, each.trained, each.seconds) for digest, each in attempts.items()))

    def cells(self) -> list[CellProgress]:
        """Return every cell, in the order of the plan."""
        return [self._cell(cell) for cell in self._plan.cells]

    def _cell(self, cell: Cell) -> CellProgress:
        state = cell_state(cell, self._tasks)
        tasks = cell.tasks
        left, whole = sum(self._left[digest] for digest in tasks), sum(self._flops[digest] for digest in tasks)
        progress = 1.0 if state == TaskState.DONE else (1 - left / whole if whole else 0.0)
        speed = self._speeds.get(cell.size)
        at_work = speed and any(self._tasks[digest].state in _AT_WORK for digest in tasks)
        return CellProgress(cell, state, progress, left / speed if at_work and speed else None)

    def seconds_left(self) -> float | None:
        """Return the seconds until all tasks are done at the combined speed of the running attempts; None if it is unknown."""
        speeds = [speed for digest in self._live if (speed := self._speeds.get(self._plan.tasks[digest].size))]
        return sum(self._left.values()) / sum(speeds) if speeds else None

    def _flops_left(self, task: PlannedTask, attempt: AttemptProgress | None) -> float:
        if self._tasks[task.digest].state == TaskState.DONE:
            return 0.0
        return self._flops[task.digest] * remaining_fraction(task, attempt.tokens if attempt else None)
