"""Check that the plan of a study fits in memory, by arithmetic on the study file: nothing is planned.

A study file of a few kilobytes can ask for hundreds of millions of tasks, so this check must precede the planner.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from orchestrator.contract.vocabulary import SOURCE_SUITES
from orchestrator.spec.checks.lookups import percents_of, sizes_of
from orchestrator.spec.checks.stages import PlacedStage, placed_stages
from orchestrator.spec.messages import Finding, Path
from orchestrator.spec.models import StudySpec
from orchestrator.spec.recipe import Recipe

# Ten times the largest grid that `plan` is designed for
MAX_CELLS: Final = 100_000
# A plan of 239,265 tasks takes 181 MB and 8 s to make, and 795 MB to freeze (2 cores, 2026-11-28). With this limit, one study takes at most
# half of the controller's 1 GiB (manifests/base/controller.yaml). The grid of 10,000 cells in tests/bench/bench_plan.py has 54,000 tasks.
MAX_TASKS: Final = 150_000

_DEPENDS_ON: Final[tuple[Path, ...]] = (("recipes",), ("data", "sources"), ("evaluation",), ("training", "schedule"))


def check_plan_size(spec: StudySpec) -> Iterator[Finding]:
    """Check the number of cells, and an upper bound of the number of tasks."""
    cells = sum(_cells(spec, recipe) for recipe in spec.recipes)
    if cells > MAX_CELLS:
        wrong = f"the grid has {cells:,} cells; at most {MAX_CELLS:,} can be planned."
        yield Finding(("grid",), wrong, "Remove sizes, proportions or seeds.", depends_on=(("recipes",),))
        return
    trains, evaluations = estimated_tasks(spec)
    if trains + evaluations > MAX_TASKS:
        wrong = (
            f"the study has up to {trains + evaluations:,} tasks (training: {trains:,}, evaluation: {evaluations:,}) in {cells:,} cells; "
            f"at most {MAX_TASKS:,} can be planned."
        )
        yield Finding(("grid",), wrong, _advice(spec, trains), depends_on=_DEPENDS_ON)


def estimated_tasks(spec: StudySpec) -> tuple[int, int]:
    """Return upper bounds of the train and evaluate tasks. Tasks that cells share are counted once for each cell."""
    trains = evaluations = 0
    for number, of_recipe in groupby(placed_stages(spec), key=lambda placed: placed.path[1]):
        assert isinstance(number, int)
        cells, stages = _cells(spec, spec.recipes[number]), list(of_recipe)
        trains += cells * sum(map(_states, stages))
        evaluations += cells * sum(placed.stage.name in spec.evaluation.after for placed in stages) * _evaluations_per_state(spec)
    return trains, evaluations


def _cells(spec: StudySpec, recipe: Recipe) -> int:
    seeds = spec.grid.seeds if recipe.seeds is None else recipe.seeds
    return len(sizes_of(spec, recipe)) * len(seeds) * (len(percents_of(spec, recipe)) if recipe.follows_grid else 1)


def _states(placed: PlacedStage) -> int:
    """States to train to: a stage with a stable part has a branch point, the end of its decay and possibly the end of its stable part."""
    return 3 if placed.has_stable_part else 1


def _evaluations_per_state(spec: StudySpec) -> int:
    return sum(len(spec.data.sources) if suite in SOURCE_SUITES else 1 for suite in spec.evaluation.suites)


def _advice(spec: StudySpec, trains: int) -> str:
    if trains > MAX_TASKS:
        return "Remove sizes, proportions or seeds under grid, or stages of recipes."
    per_state = f"{len(spec.evaluation.suites)} suites on {len(spec.data.sources)} sources"
    return f"Remove stages from evaluation.after ({per_state} after each), suites, or sources; or sizes, proportions or seeds under grid."
