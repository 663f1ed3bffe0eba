"""Check the grid, and the subset of it that each recipe selects."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.checks.lookups import (
    closest_size,
    duplicate_entries,
    duplicate_names,
    stages_of,
    unknown_size,
)
from orchestrator.spec.grid import Seed
from orchestrator.spec.messages import Finding, Path, format_list
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import format_decimal
from orchestrator.spec.recipe import Recipe

_PROPORTIONS: Final[tuple[Path, ...]] = (("recipes", "*", "stages", "*", "mixture", "codePercent"), ("recipes", "*", "stages"))


def check_grid(spec: StudySpec) -> Iterator[Finding]:
    """Check that sizes are known, entries unique, and proportions used."""
    grid = spec.grid
    for index, size in enumerate(grid.sizes):
        if size not in LADDER and size not in spec.models:
            yield replace(unknown_size(spec, ("grid", "sizes", index), size), hides_dependents=True)
    yield from duplicate_entries(("grid", "sizes"), grid.sizes, "size")
    yield from duplicate_entries(("grid", "codePercent"), grid.code_percent, "proportion")
    yield from duplicate_entries(("grid", "seeds"), [(seed.init, seed.data) for seed in grid.seeds], "seed")
    yield from _proportions(spec)


def _proportions(spec: StudySpec) -> Iterator[Finding]:
    if spec.grid.code_percent and not any(recipe.follows_grid for recipe in spec.recipes):
        wrong = "no recipe has codePercent: grid, so these proportions produce no cells."
        advice = "Write codePercent: grid in the mixture of a stage, or remove the proportions."
        yield Finding(("grid", "codePercent"), wrong, advice, depends_on=_PROPORTIONS, hides_dependents=True)
    for *_, stage, path in stages_of(spec):
        if stage.mixture.code_percent == "grid" and not spec.grid.code_percent:
            wrong = "the grid has no proportions, so this recipe has no cells."
            advice = "Write codePercent: [0, 25, 50] under spec.grid, or a number here."
            yield Finding((*path, "mixture", "codePercent"), wrong, advice, depends_on=(("grid", "codePercent"),), hides_dependents=True)


def check_selections(spec: StudySpec) -> Iterator[Finding]:
    """Check that recipes have unique names, select existing values of the grid, and together use all of them."""
    yield from duplicate_names(("recipes",), (recipe.name for recipe in spec.recipes), "recipe")
    for number, recipe in enumerate(spec.recipes):
        yield from _selection(spec, recipe, ("recipes", number))
    yield from _unused_values(spec)


def _selection(spec: StudySpec, recipe: Recipe, path: Path) -> Iterator[Finding]:
    grid = spec.grid
    for index, size in enumerate(recipe.sizes or ()):
        if size not in grid.sizes:
            suggestion = closest_size(size, grid.sizes)
            advice = f'Did you mean "{suggestion}"?' if suggestion else "Add it to the grid, or remove it."
            wrong = f'"{size}" is not a size of the grid ({format_list(grid.sizes)}).'
            yield Finding((*path, "sizes", index), wrong, advice, depends_on=(("grid", "sizes"),))
    for index, percent in enumerate(recipe.code_percent or ()):
        if percent not in grid.code_percent:
            wrong = f"{format_decimal(percent)} is not a proportion of the grid ({format_list(map(format_decimal, grid.code_percent))})."
            yield Finding((*path, "codePercent", index), wrong, "Add it to the grid, or remove it.", depends_on=(("grid", "codePercent"),))
    for index, seed in enumerate(recipe.seeds or ()):
        if seed not in grid.seeds:
            wrong = f"{_seed(seed)} is not a seed of the grid ({format_list(map(_seed, grid.seeds))})."
            yield Finding((*path, "seeds", index), wrong, "Add it to the grid, or remove it.", depends_on=(("grid", "seeds"),))
    yield from duplicate_entries((*path, "sizes"), recipe.sizes or (), "size")
    yield from duplicate_entries((*path, "codePercent"), recipe.code_percent or (), "proportion")
    yield from duplicate_entries((*path, "seeds"), [(seed.init, seed.data) for seed in recipe.seeds or ()], "seed")
    if recipe.code_percent is not None and not recipe.follows_grid:
        wrong = "this selects proportions of the grid, but no mixture of the recipe has codePercent: grid."
        advice = "Remove codePercent here, or write codePercent: grid in a mixture."
        yield Finding((*path, "codePercent"), wrong, advice, depends_on=((*path, "stages"),))


def _seed(seed: Seed) -> str:
    return str(seed.init) if seed.init == seed.data else f"{{init: {seed.init}, data: {seed.data}}}"


def _unused_values(spec: StudySpec) -> Iterator[Finding]:
    followers = [recipe for recipe in spec.recipes if recipe.follows_grid]
    yield from _unused("sizes", spec.grid.sizes, [recipe.sizes for recipe in spec.recipes])
    yield from _unused("seeds", spec.grid.seeds, [recipe.seeds for recipe in spec.recipes])
    if followers:
        yield from _unused("codePercent", spec.grid.code_percent, [recipe.code_percent for recipe in followers])


def _unused(key: str, entries: Sequence[object], selections: list[tuple[object, ...] | None]) -> Iterator[Finding]:
    taken = {str(entry) for selection in selections for entry in selection or ()}
    if any(selection is None for selection in selections):
        return
    for index, entry in enumerate(entries):
        if str(entry) not in taken:
            wrong = "no recipe uses this value, so it produces no cells."
            advice = f"Remove it, or add it to {key} of a recipe."
            yield Finding(("grid", key, index), wrong, advice, depends_on=(("recipes", "*", key), *_PROPORTIONS))
