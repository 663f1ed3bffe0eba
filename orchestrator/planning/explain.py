"""Explain a cell: its tasks, what it shares with other cells, and which field prevents two cells from sharing.

`cli.explain` prints it. Pure: reads a plan and nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.contract.plan import Cell, CellStage, Plan, PlannedTask
from orchestrator.contract.tasks import FromState, TrainTask
from orchestrator.errors import PlanRefused

MISSING = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a trajectory in which two cells differ, with both values as in `task.json`."""

    stage: str
    field: str
    here: str
    there: str


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task of a cell. `shared_with`: number of other cells that use it."""

    stage: str
    what: str
    digest: str
    shared_with: int


def find_cell(plan: Plan, name: str) -> Cell:
    """Return the cell called `name`. Raises PlanRefused, which names similar cells."""
    for cell in plan.cells:
        if cell.name == name:
            return cell
    near = [cell.name for cell in plan.cells if cell.name.startswith(name.split("/")[0])] or [cell.name for cell in plan.cells]
    more = f" and {len(near) - 6} more" if len(near) > 6 else ""
    raise PlanRefused(f"{name!r} is not a cell of {plan.study}. Cells are, for example: {', '.join(near[:6])}{more}")


def tasks_of(plan: Plan, cell: Cell) -> list[TaskLine]:
    """Return the cell's tasks in the order of its stages."""
    serves: dict[str, int] = {}
    for other in plan.cells:
        for digest in set(other.tasks):
            serves[digest] = serves.get(digest, 0) + 1
    return [
        TaskLine(stage.name, _describe(plan.tasks[digest], stage), digest, serves[digest] - 1)
        for stage in cell.stages
        for digest in stage.tasks
    ]


def nearest(plan: Plan, cell: Cell) -> Cell | None:
    """Return the most similar other cell: the same size, recipe, seeds and code proportion, in that order of priority."""

    def likeness(other: Cell) -> tuple[bool, ...]:
        return (
            other.size == cell.size,
            other.recipe == cell.recipe,
            (other.init_seed, other.data_seed) == (cell.init_seed, cell.data_seed),
            other.code_percent == cell.code_percent,
        )

    others = [other for other in plan.cells if other.name != cell.name]
    return max(others, key=likeness, default=None)


def differences(plan: Plan, here: Cell, there: Cell) -> list[Difference]:
    """Return the differing fields of the first stage in which two cells have different trajectories; empty if they share everything."""
    found: list[Difference] = []
    for mine, theirs in zip(here.stages, there.stages, strict=False):
        for field, one, other in _unequal(_first_trajectory(plan, mine), _first_trajectory(plan, theirs)):
            found.append(Difference(mine.name, field, one, other))
        if found:
            break
    return found


def _first_trajectory(plan: Plan, stage: CellStage) -> dict[str, Any]:
    task = plan.tasks[stage.trains[0]].task
    assert isinstance(task, TrainTask)
    names = {source.digest: source.name for source in plan.sources}
    identity = task.trajectory.identity()
    for field in ("shares", "already_read"):
        identity[field] = {names.get(digest, digest): number for digest, number in identity[field]}
    return identity


def _unequal(one: object, other: object, where: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _unequal(one.get(key, MISSING), other.get(key, MISSING), f"{where}.{key}" if where else key)
    elif one != other:
        yield where, str(one), str(other)


def _describe(planned: PlannedTask, stage: CellStage) -> str:
    if not isinstance(planned.task, TrainTask):
        return "evaluate " + next(f"{e.suite} {e.source}".rstrip() for e in stage.evaluations if e.digest == planned.digest)
    trajectory = planned.task.trajectory
    start = trajectory.start
    begins = f"from {start.trajectory[:12]} at {start.tokens:,}" if isinstance(start, FromState) else f"from seed {start.seed}"
    role = "stable" if trajectory.schedule.shape == "constant" else trajectory.schedule.shape
    return f"train {role} {planned.from_tokens:,} - {planned.task.tokens:,} tokens, {begins}"
