"""The grid of a study as a table: one a recipe, sizes x code percent, with the seeds of a cell folded into one square.

`study_view` computes it from plan, states and leases, `cli.grid` draws it. Pure: no store, no cluster, no clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.plan import Cell, Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.planning.estimate import DEFAULT_MFU, Price, costs
from orchestrator.reconcile.observe import TaskSeen, TaskState
from orchestrator.reconcile.pace import speeds
from orchestrator.reconcile.status import cell_state

FIXED: Final = ""
"""The column of a recipe that fixes its proportions itself."""

# What a square shows of seeds that stand differently: what somebody should look at, then the furthest
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
class Work:
    """The last attempt at a task that is not done.

    `tokens`: where on its trajectory it stands, or can be taken up. `made`: tokens that it has trained in `seconds`.
    """

    tokens: int = 0
    made: int = 0
    seconds: float = 0.0
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class CellStanding:
    """A cell: `progress` of its FLOPs, 0 to 1; `seconds_left` while somebody works on it at a known speed."""

    cell: Cell
    state: TaskState
    progress: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Square:
    """The cells of one size and proportion, `total` seeds together; `seconds_left`: until the last that is at work."""

    size: str
    code_percent: str
    state: TaskState
    done: int
    total: int
    progress: float
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class RecipeGrid:
    """Squares by (size, code percent); a recipe that narrows the grid has no square for some."""

    recipe: str
    sizes: tuple[str, ...]
    code_percents: tuple[str, ...]
    squares: Mapping[tuple[str, str], Square]


def recipe_grids(cells: Iterable[CellStanding]) -> tuple[RecipeGrid, ...]:
    """One table a recipe, in the order of the plan."""
    by_recipe: dict[str, dict[tuple[str, str], list[CellStanding]]] = {}
    for standing in cells:
        cell = standing.cell
        by_recipe.setdefault(cell.recipe, {}).setdefault((cell.size, cell.code_percent or FIXED), []).append(standing)
    return tuple(
        RecipeGrid(
            recipe,
            tuple(dict.fromkeys(size for size, _ in squares)),
            tuple(dict.fromkeys(percent for _, percent in squares)),
            {place: _square(place, members) for place, members in squares.items()},
        )
        for recipe, squares in by_recipe.items()
    )


def _square(place: tuple[str, str], members: Sequence[CellStanding]) -> Square:
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


def cells_without_tasks(cells: Sequence[Cell], states: Sequence[TaskState]) -> list[CellStanding]:
    """Cells of which only the state is known: where the store is out of reach."""
    return [CellStanding(cell, state, float(state == TaskState.DONE)) for cell, state in zip(cells, states, strict=True)]


class Reckoning:
    """How far the cells of a plan are and how long they take, from the states of tasks and the attempts at those that are not done.

    Work is counted in FLOPs, so that a step of a large model counts for more. The time that is left goes by the speed of what is at work
    now: a guess, told as one.
    """

    def __init__(self, plan: Plan, tasks: Mapping[str, TaskSeen], works: Mapping[str, Work]) -> None:
        price = Price("h100", DEFAULT_MFU, None, {})
        self._plan = plan
        self._tasks = tasks
        self._flops = {digest: found.flops for digest, found in costs(plan, price).items()}
        self._left = {
            digest: 0.0 if tasks[digest].state == TaskState.DONE else self._flops[digest] * (1 - share_of(task, works.get(digest)))
            for digest, task in plan.tasks.items()
        }
        self._live = [digest for digest, work in works.items() if work.is_live and plan.tasks[digest].kind == "train"]
        self._speeds = speeds(plan, self._flops, ((digest, work.made, work.seconds) for digest, work in works.items()))

    def cells(self) -> list[CellStanding]:
        """Every cell, in the order of the plan."""
        return [self._standing(cell) for cell in self._plan.cells]

    def _standing(self, cell: Cell) -> CellStanding:
        state = cell_state(cell, self._tasks)
        tasks = cell.tasks
        left, whole = sum(self._left[digest] for digest in tasks), sum(self._flops[digest] for digest in tasks)
        progress = 1.0 if state == TaskState.DONE else (1 - left / whole if whole else 0.0)
        speed = self._speeds.get(cell.size)
        at_work = speed and any(self._tasks[digest].state in _AT_WORK for digest in tasks)
        return CellStanding(cell, state, progress, left / speed if at_work and speed else None)

    def seconds_left(self) -> float | None:
        """Until all is done, if as many go on as fast as those at work now; None while nobody can know."""
        speeds = [speed for digest in self._live if (speed := self._speeds.get(self._plan.tasks[digest].size))]
        return sum(self._left.values()) / sum(speeds) if speeds else None


def share_of(task: PlannedTask, work: Work | None) -> float:
    """How much of a task that is not done is there already, 0 to 1."""
    if work is None or not isinstance(task.task, TrainTask):
        return 0.0
    whole = task.task.tokens - task.from_tokens
    return min(1.0, max(0.0, (work.tokens - task.from_tokens) / whole)) if whole > 0 else 0.0
