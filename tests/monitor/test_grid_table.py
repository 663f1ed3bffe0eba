"""The grid as tables: squares, progress and remaining time, from task states and attempts."""

from collections.abc import Iterable, Mapping

import pytest

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.monitor.grid_table import (
    FIXED,
    AttemptProgress,
    CellProgress,
    ProgressEstimate,
    RecipeGrid,
    cells_from_states,
    recipe_grids,
)
from orchestrator.reconcile.pace import remaining_fraction
from orchestrator.reconcile.task_states import TaskState, TaskStatus
from tests.analysis.synthetic_study import SyntheticRecipe, SyntheticStage, SyntheticStudy

STAGES = (SyntheticStage("pretrain", "pretrain", 100), SyntheticStage("cooldown", "cooldown", 20, "20"))
FIXED_STAGES = (SyntheticStage("init", "pretrain", 50, "50"),)
STUDY = SyntheticStudy(
    sizes=("0.03M", "0.09M"),
    code_percents=("0", "50"),
    seeds=(1, 2, 3),
    suites=("bpb",),
    recipes=(SyntheticRecipe("scratch", STAGES), SyntheticRecipe("balanced", FIXED_STAGES)),
)
PLAN = STUDY.plan()


def states(done: Iterable[str] = (), others: Mapping[str, TaskState] | None = None) -> dict[str, TaskStatus]:
    finished = set(done)
    known = others or {}
    return {digest: TaskStatus(TaskState.DONE if digest in finished else known.get(digest, TaskState.WAITING)) for digest in PLAN.tasks}


def grid(tasks: Mapping[str, TaskStatus], works: Mapping[str, AttemptProgress] | None = None) -> dict[str, RecipeGrid]:
    return {each.recipe: each for each in recipe_grids(ProgressEstimate(PLAN, tasks, works or {}).cells())}


def trunk(plan: Plan, cell: int = 0) -> PlannedTask:
    """Return the first training task of a cell: nine tenths of its pretrain stage."""
    return plan.tasks[plan.cells[cell].stages[0].trains[0]]


def target(task: PlannedTask) -> int:
    assert isinstance(task.task, TrainTask)
    return task.task.tokens


def test_seeds_share_a_square_and_fixed_proportions_have_one_column() -> None:
    found = grid(states())
    assert list(found) == ["scratch", "balanced"]
    assert (found["scratch"].sizes, found["scratch"].code_percents) == (("0.03M", "0.09M"), ("0", "50"))
    assert found["balanced"].code_percents == (FIXED,)
    assert {square.total for square in found["scratch"].squares.values()} == {3}
    assert {square.done for square in found["scratch"].squares.values()} == {0}


def test_square_counts_finished_seeds() -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "50")]
    square = grid(states(digest for cell in cells[:2] for digest in cell.tasks))["scratch"].squares["0.03M", "50"]
    assert (square.done, square.total, square.state) == (2, 3, TaskState.WAITING)
    assert 0.6 < square.progress < 1, "the tasks that only the third seed needs are missing"
    whole = grid(states(digest for cell in cells for digest in cell.tasks))["scratch"].squares["0.03M", "50"]
    assert (whole.done, whole.state, whole.progress) == (3, TaskState.DONE, 1.0)


@pytest.mark.parametrize(
    ("of_seeds", "shown"),
    [
        (("done", "done", "running"), "running"),
        (("done", "running", "failed"), "failed"),
        (("waiting", "queued", "running"), "running"),
        (("stalled", "running", "running"), "stalled"),
        (("waiting", "queued", "done"), "queued"),
        (("done", "waiting", "done"), "waiting"),
        (("awaited", "done", "done"), "awaited"),
        (("done", "done", "done"), "done"),
    ],
)
def test_square_shows_the_seed_state_of_highest_precedence(of_seeds: tuple[str, ...], shown: str) -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "0")]
    square = recipe_grids(cells_from_states(cells, [TaskState(state) for state in of_seeds]))[0].squares["0.03M", "0"]
    assert square.state == shown


def test_excluded_cells_have_no_square() -> None:
    left = [cell for cell in PLAN.cells if cell.recipe == "scratch" and (cell.size, cell.code_percent) != ("0.09M", "0")]
    (only,) = recipe_grids([CellProgress(cell, TaskState.WAITING, 0.0) for cell in left])
    assert ("0.09M", "0") not in only.squares
    assert ("0.09M", "50") in only.squares


@pytest.mark.parametrize(
    ("tokens", "share"),
    [(0, 0.0), (0.5, 0.5), (1, 1.0), (2, 1.0)],
)
def test_remaining_fraction_counts_from_the_start_of_the_task(tokens: float, share: float) -> None:
    later = next(task for task in PLAN.tasks.values() if task.kind == "train" and task.from_tokens)
    at = later.from_tokens + int(tokens * (target(later) - later.from_tokens))
    assert 1 - remaining_fraction(later, at) == pytest.approx(share, abs=0.01)
    assert remaining_fraction(later, later.from_tokens // 2) == 1.0


def test_shared_trunk_counts_as_progress_of_every_cell_that_needs_it() -> None:
    task = trunk(PLAN)
    works = {task.digest: AttemptProgress(target(task) // 2, target(task) // 2, 100.0, is_live=True)}
    tasks = states(others={task.digest: TaskState.RUNNING})
    sharing = [each for each in ProgressEstimate(PLAN, tasks, works).cells() if task.digest in each.cell.tasks]
    assert sharing
    assert all(each.state == TaskState.RUNNING and 0.2 < each.progress < 0.5 for each in sharing)


def test_remaining_time_of_a_cell_uses_the_measured_speed() -> None:
    task = trunk(PLAN)
    half = target(task) // 2
    slow, fast = (
        ProgressEstimate(
            PLAN, states(others={task.digest: TaskState.RUNNING}), {task.digest: AttemptProgress(half, half, seconds, is_live=True)}
        )
        for seconds in (100.0, 50.0)
    )
    cell = next(index for index, each in enumerate(PLAN.cells) if task.digest in each.tasks)
    left = [estimate.cells()[cell].seconds_left for estimate in (slow, fast)]
    assert left[0] is not None
    assert left[1] == pytest.approx(left[0] / 2)
    assert left[0] > 100, "the other half, and the tasks after it"
    waiting = next(each for each in slow.cells() if task.digest not in each.cell.tasks)
    assert waiting.seconds_left is None, "its start is unknown"


def test_remaining_time_of_a_square_is_that_of_its_slowest_seed() -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "0")]
    cells_at_work = [CellProgress(cell, TaskState.RUNNING, 0.5, seconds) for cell, seconds in zip(cells, (30.0, 90.0, None), strict=True)]
    (only,) = recipe_grids(cells_at_work)
    assert only.squares["0.03M", "0"].seconds_left == 90.0


def test_two_running_tasks_halve_the_remaining_time() -> None:
    first, second = trunk(PLAN), trunk(PLAN, next(i for i, cell in enumerate(PLAN.cells) if trunk(PLAN).digest not in cell.tasks))
    assert first.size == second.size
    work = AttemptProgress(10_000, 10_000, 10.0, is_live=True)
    one = ProgressEstimate(PLAN, states(others={first.digest: TaskState.RUNNING}), {first.digest: work}).seconds_left()
    two = ProgressEstimate(PLAN, states(), {first.digest: work, second.digest: work}).seconds_left()
    assert one is not None
    assert two == pytest.approx(one / 2, rel=0.05)


def test_remaining_time_is_unknown_without_a_running_attempt() -> None:
    task = trunk(PLAN)
    for works in (
        {},
        {task.digest: AttemptProgress(5_000, 5_000, 10.0, is_live=False)},
        {task.digest: AttemptProgress(0, 0, 10.0, is_live=True)},
    ):
        estimate = ProgressEstimate(PLAN, states(), works)
        assert estimate.seconds_left() is None
        assert {each.seconds_left for each in estimate.cells()} == {None}


def test_unmeasured_size_uses_the_mean_speed() -> None:
    task = trunk(PLAN)
    assert task.size == "0.03M"
    other = next(cell for cell in PLAN.cells if cell.size == "0.09M")
    begun = PLAN.tasks[other.stages[0].trains[0]]
    works = {task.digest: AttemptProgress(10_000, 10_000, 10.0, is_live=True), begun.digest: AttemptProgress(is_live=True)}
    cells = ProgressEstimate(PLAN, states(others={task.digest: TaskState.RUNNING, begun.digest: TaskState.RUNNING}), works).cells()
    large = next(each for each in cells if each.cell.name == other.name)
    small = next(each for each in cells if task.digest in each.cell.tasks)
    assert small.seconds_left is not None
    assert large.seconds_left is not None
    assert large.seconds_left > small.seconds_left
