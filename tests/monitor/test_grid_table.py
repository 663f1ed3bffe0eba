"""The grid as a table: squares, progress and time left, from states of tasks and attempts."""

from collections.abc import Iterable, Mapping

import pytest

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.monitor.grid_table import FIXED, CellStanding, RecipeGrid, Reckoning, Work, cells_without_tasks, recipe_grids, share_of
from orchestrator.reconcile.observe import TaskSeen, TaskState
from tests.analysis.synthetic_study import MadeUpRecipe, MadeUpStage, MadeUpStudy

STAGES = (MadeUpStage("pretrain", "pretrain", 100), MadeUpStage("cooldown", "cooldown", 20, "20"))
FIXED_STAGES = (MadeUpStage("init", "pretrain", 50, "50"),)
STUDY = MadeUpStudy(
    sizes=("0.03M", "0.09M"),
    code_percents=("0", "50"),
    seeds=(1, 2, 3),
    suites=("bpb",),
    recipes=(MadeUpRecipe("scratch", STAGES), MadeUpRecipe("balanced", FIXED_STAGES)),
)
PLAN = STUDY.plan()


def states(done: Iterable[str] = (), others: Mapping[str, TaskState] | None = None) -> dict[str, TaskSeen]:
    finished = set(done)
    known = others or {}
    return {digest: TaskSeen(TaskState.DONE if digest in finished else known.get(digest, TaskState.WAITING)) for digest in PLAN.tasks}


def grid(tasks: Mapping[str, TaskSeen], works: Mapping[str, Work] | None = None) -> dict[str, RecipeGrid]:
    return {each.recipe: each for each in recipe_grids(Reckoning(PLAN, tasks, works or {}).cells())}


def trunk(plan: Plan, cell: int = 0) -> PlannedTask:
    """The first train task of a cell: nine tenths of its pretrain stage."""
    return plan.tasks[plan.cells[cell].stages[0].trains[0]]


def target(task: PlannedTask) -> int:
    assert isinstance(task.task, TrainTask)
    return task.task.tokens


def test_seeds_are_folded_and_a_recipe_of_fixed_proportions_has_one_column() -> None:
    found = grid(states())
    assert list(found) == ["scratch", "balanced"]
    assert (found["scratch"].sizes, found["scratch"].code_percents) == (("0.03M", "0.09M"), ("0", "50"))
    assert found["balanced"].code_percents == (FIXED,)
    assert {square.total for square in found["scratch"].squares.values()} == {3}
    assert {square.done for square in found["scratch"].squares.values()} == {0}


def test_a_square_counts_its_seeds_that_are_done() -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "50")]
    square = grid(states(digest for cell in cells[:2] for digest in cell.tasks))["scratch"].squares["0.03M", "50"]
    assert (square.done, square.total, square.state) == (2, 3, TaskState.WAITING)
    assert 0.6 < square.progress < 1, "what the third seed shares with nobody is not there"
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
def test_a_square_shows_of_its_seeds_what_somebody_should_look_at_first(of_seeds: tuple[str, ...], shown: str) -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "0")]
    square = recipe_grids(cells_without_tasks(cells, [TaskState(state) for state in of_seeds]))[0].squares["0.03M", "0"]
    assert square.state == shown


def test_a_recipe_that_narrows_the_grid_has_no_square_where_it_has_no_cell() -> None:
    left = [cell for cell in PLAN.cells if cell.recipe == "scratch" and (cell.size, cell.code_percent) != ("0.09M", "0")]
    (only,) = recipe_grids([CellStanding(cell, TaskState.WAITING, 0.0) for cell in left])
    assert ("0.09M", "0") not in only.squares
    assert ("0.09M", "50") in only.squares


@pytest.mark.parametrize(
    ("tokens", "share"),
    [(0, 0.0), (0.5, 0.5), (1, 1.0), (2, 1.0)],
)
def test_the_share_of_a_task_counts_from_where_the_task_before_it_ends(tokens: float, share: float) -> None:
    later = next(task for task in PLAN.tasks.values() if task.kind == "train" and task.from_tokens)
    at = later.from_tokens + int(tokens * (target(later) - later.from_tokens))
    assert share_of(later, Work(at)) == pytest.approx(share, abs=0.01)
    assert share_of(later, Work(later.from_tokens // 2)) == 0.0


def test_a_trunk_that_is_half_way_is_progress_of_every_cell_that_needs_it() -> None:
    task = trunk(PLAN)
    works = {task.digest: Work(target(task) // 2, target(task) // 2, 100.0, is_live=True)}
    tasks = states(others={task.digest: TaskState.RUNNING})
    sharing = [each for each in Reckoning(PLAN, tasks, works).cells() if task.digest in each.cell.tasks]
    assert sharing
    assert all(each.state == TaskState.RUNNING and 0.2 < each.progress < 0.5 for each in sharing)


def test_the_time_left_of_a_cell_goes_by_the_speed_of_what_is_at_work() -> None:
    task = trunk(PLAN)
    half = target(task) // 2
    slow, fast = (
        Reckoning(PLAN, states(others={task.digest: TaskState.RUNNING}), {task.digest: Work(half, half, seconds, is_live=True)})
        for seconds in (100.0, 50.0)
    )
    cell = next(index for index, each in enumerate(PLAN.cells) if task.digest in each.tasks)
    left = [reckoning.cells()[cell].seconds_left for reckoning in (slow, fast)]
    assert left[0] is not None
    assert left[1] == pytest.approx(left[0] / 2)
    assert left[0] > 100, "the other half, and what comes after it"
    waiting = next(each for each in slow.cells() if task.digest not in each.cell.tasks)
    assert waiting.seconds_left is None, "nobody knows when it begins"


def test_a_square_is_ready_when_its_slowest_seed_is() -> None:
    cells = [cell for cell in PLAN.cells if (cell.recipe, cell.size, cell.code_percent) == ("scratch", "0.03M", "0")]
    standings = [CellStanding(cell, TaskState.RUNNING, 0.5, seconds) for cell, seconds in zip(cells, (30.0, 90.0, None), strict=True)]
    (only,) = recipe_grids(standings)
    assert only.squares["0.03M", "0"].seconds_left == 90.0


def test_two_at_work_end_the_study_in_half_the_time() -> None:
    first, second = trunk(PLAN), trunk(PLAN, next(i for i, cell in enumerate(PLAN.cells) if trunk(PLAN).digest not in cell.tasks))
    assert first.size == second.size
    work = Work(10_000, 10_000, 10.0, is_live=True)
    one = Reckoning(PLAN, states(others={first.digest: TaskState.RUNNING}), {first.digest: work}).seconds_left()
    two = Reckoning(PLAN, states(), {first.digest: work, second.digest: work}).seconds_left()
    assert one is not None
    assert two == pytest.approx(one / 2, rel=0.05)


def test_without_anybody_at_work_nobody_knows_how_long_it_takes() -> None:
    task = trunk(PLAN)
    for works in ({}, {task.digest: Work(5_000, 5_000, 10.0, is_live=False)}, {task.digest: Work(0, 0, 10.0, is_live=True)}):
        reckoning = Reckoning(PLAN, states(), works)
        assert reckoning.seconds_left() is None
        assert {each.seconds_left for each in reckoning.cells()} == {None}


def test_a_size_that_nobody_has_measured_goes_by_those_that_were() -> None:
    task = trunk(PLAN)
    assert task.size == "0.03M"
    other = next(cell for cell in PLAN.cells if cell.size == "0.09M")
    begun = PLAN.tasks[other.stages[0].trains[0]]
    works = {task.digest: Work(10_000, 10_000, 10.0, is_live=True), begun.digest: Work(is_live=True)}
    cells = Reckoning(PLAN, states(others={task.digest: TaskState.RUNNING, begun.digest: TaskState.RUNNING}), works).cells()
    large = next(each for each in cells if each.cell.name == other.name)
    small = next(each for each in cells if task.digest in each.cell.tasks)
    assert small.seconds_left is not None
    assert large.seconds_left is not None
    assert large.seconds_left > small.seconds_left
