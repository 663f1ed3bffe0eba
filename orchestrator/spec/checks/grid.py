"""Check the grid, and the part of it that each recipe uses."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.checks.lookups import nearest_size, percents_of, same_names, sizes_of, stages_of, twice, unknown_size
from orchestrator.spec.grid import Seed
from orchestrator.spec.messages import Finding, Path, listed
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import written
from orchestrator.spec.recipe import Recipe

# Ten times what plan is made to bear
MOST_CELLS: Final = 100_000

_PROPORTIONS: Final[tuple[Path, ...]] = (("recipes", "*", "stages", "*", "mixture", "codePercent"), ("recipes", "*", "stages"))


def check_grid(spec: StudySpec) -> Iterator[Finding]:
    """Check that sizes are known, entries unique, proportions used, and the number of cells within the limit."""
    grid = spec.grid
    for index, size in enumerate(grid.sizes):
        if size not in LADDER and size not in spec.models:
            yield replace(unknown_size(spec, ("grid", "sizes", index), size), voids=True)
    yield from twice(("grid", "sizes"), grid.sizes, "size")
    yield from twice(("grid", "codePercent"), grid.code_percent, "proportion")
    yield from twice(("grid", "seeds"), [(seed.init, seed.data) for seed in grid.seeds], "seed")
    yield from _proportions(spec)
    cells = sum(_cells(spec, recipe) for recipe in spec.recipes)
    if cells > MOST_CELLS:
        wrong = f"this makes {cells:,} cells; at most {MOST_CELLS:,} can be planned."
        yield Finding(("grid",), wrong, "Take sizes, proportions or seeds away.", reads=(("recipes",),))


def _cells(spec: StudySpec, recipe: Recipe) -> int:
    seeds = spec.grid.seeds if recipe.seeds is None else recipe.seeds
    return len(sizes_of(spec, recipe)) * len(seeds) * (len(percents_of(spec, recipe)) if recipe.follows_grid else 1)


def _proportions(spec: StudySpec) -> Iterator[Finding]:
    if spec.grid.code_percent and not any(recipe.follows_grid for recipe in spec.recipes):
        wrong = "no recipe says codePercent: grid, so that these proportions make no cell."
        advice = "Write codePercent: grid in the mixture of a stage, or take the proportions away."
        yield Finding(("grid", "codePercent"), wrong, advice, reads=_PROPORTIONS, voids=True)
    for *_, stage, path in stages_of(spec):
        if stage.mixture.code_percent == "grid" and not spec.grid.code_percent:
            wrong = "the grid has no proportions, so that its recipe makes no cell."
            advice = "Write codePercent: [0, 25, 50] under spec.grid, or a number here."
            yield Finding((*path, "mixture", "codePercent"), wrong, advice, reads=(("grid", "codePercent"),), voids=True)


def check_narrowing(spec: StudySpec) -> Iterator[Finding]:
    """Check that recipes have unique names, narrow the grid to existing values, and together use all of it."""
    yield from same_names(("recipes",), (recipe.name for recipe in spec.recipes), "recipe")
    for number, recipe in enumerate(spec.recipes):
        yield from _narrowed(spec, recipe, ("recipes", number))
    yield from _left_out(spec)


def _narrowed(spec: StudySpec, recipe: Recipe, path: Path) -> Iterator[Finding]:
    grid = spec.grid
    for index, size in enumerate(recipe.sizes or ()):
        if size not in grid.sizes:
            meant = nearest_size(size, grid.sizes)
            advice = f'Did you mean "{meant}"?' if meant else "Put it into the grid too, or take it away."
            wrong = f'"{size}" is not a size of the grid ({listed(grid.sizes)}).'
            yield Finding((*path, "sizes", index), wrong, advice, reads=(("grid", "sizes"),))
    for index, percent in enumerate(recipe.code_percent or ()):
        if percent not in grid.code_percent:
            wrong = f"{written(percent)} is not a proportion of the grid ({listed(map(written, grid.code_percent))})."
            yield Finding(
                (*path, "codePercent", index), wrong, "Put it into the grid too, or take it away.", reads=(("grid", "codePercent"),)
            )
    for index, seed in enumerate(recipe.seeds or ()):
        if seed not in grid.seeds:
            wrong = f"{_seed(seed)} is not a seed of the grid ({listed(map(_seed, grid.seeds))})."
            yield Finding((*path, "seeds", index), wrong, "Put it into the grid too, or take it away.", reads=(("grid", "seeds"),))
    yield from twice((*path, "sizes"), recipe.sizes or (), "size")
    yield from twice((*path, "codePercent"), recipe.code_percent or (), "proportion")
    yield from twice((*path, "seeds"), [(seed.init, seed.data) for seed in recipe.seeds or ()], "seed")
    if recipe.code_percent is not None and not recipe.follows_grid:
        wrong = "the recipe fixes its own proportions: none of its mixtures says codePercent: grid."
        advice = "Take codePercent away here, or write codePercent: grid in a mixture."
        yield Finding((*path, "codePercent"), wrong, advice, reads=((*path, "stages"),))


def _seed(seed: Seed) -> str:
    return str(seed.init) if seed.init == seed.data else f"{{init: {seed.init}, data: {seed.data}}}"


def _left_out(spec: StudySpec) -> Iterator[Finding]:
    followers = [recipe for recipe in spec.recipes if recipe.follows_grid]
    yield from _unused("sizes", spec.grid.sizes, [recipe.sizes for recipe in spec.recipes])
    yield from _unused("seeds", spec.grid.seeds, [recipe.seeds for recipe in spec.recipes])
    if followers:
        yield from _unused("codePercent", spec.grid.code_percent, [recipe.code_percent for recipe in followers])


def _unused(key: str, entries: Sequence[object], narrowings: list[tuple[object, ...] | None]) -> Iterator[Finding]:
    taken = {str(entry) for narrowing in narrowings for entry in narrowing or ()}
    if any(narrowing is None for narrowing in narrowings):
        return
    for index, entry in enumerate(entries):
        if str(entry) not in taken:
            wrong = "every recipe narrows the grid to others, so that this makes no cell."
            advice = f"Take it away, or write it under {key} of a recipe."
            yield Finding(("grid", key, index), wrong, advice, reads=(("recipes", "*", key), *_PROPORTIONS))
