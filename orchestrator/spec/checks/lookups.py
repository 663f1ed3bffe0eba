"""Look up sizes, proportions and stages, for several checks."""

from collections.abc import Hashable, Iterable, Iterator
from decimal import Decimal
from math import log

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.messages import Finding, Path, closest_match, format_list
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import read_count
from orchestrator.spec.recipe import Recipe, Stage

# Sizes that differ by more than this ratio are not suggested as a correction
_MAX_LOG_RATIO = log(1.3)


def duplicates(values: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield the index of every repeated value, with the index of its first occurrence."""
    first: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if value in first:
            yield index, first[value]
        else:
            first[value] = index


def duplicate_entries(path: Path, values: Iterable[Hashable], what: str) -> Iterator[Finding]:
    """Yield a finding for every repeated entry of a list."""
    for index, first in duplicates(values):
        wrong = f"this {what} is a duplicate of entry {first}."
        yield Finding((*path, index), wrong, "Remove one of the two.", depends_on=((*path, first),))


def duplicate_names(path: Path, names: Iterable[str], what: str) -> Iterator[Finding]:
    """Yield a finding for every name that repeats an earlier one."""
    for index, first in duplicates(names := list(names)):
        wrong = f'entry {first} is also named "{names[index]}"; every {what} needs a unique name.'
        advice = f'Give it another name, for example "{names[index]}-2".'
        yield Finding((*path, index, "name"), wrong, advice, depends_on=((*path, first, "name"),), hides_dependents=True)


def sizes_of(spec: StudySpec, recipe: Recipe) -> tuple[str, ...]:
    """Return the sizes of the cells of a recipe."""
    return spec.grid.sizes if recipe.sizes is None else recipe.sizes


def percents_of(spec: StudySpec, recipe: Recipe) -> tuple[Decimal, ...]:
    """Return the code proportions of the grid that a recipe uses."""
    return spec.grid.code_percent if recipe.code_percent is None else recipe.code_percent


def stage_percents(spec: StudySpec, recipe: Recipe, stage: Stage) -> tuple[Decimal, ...]:
    """Return the code percentages of a stage in the cells of its recipe."""
    percent = stage.mixture.code_percent
    return percents_of(spec, recipe) if percent == "grid" else (percent,)


def paths_of_stage_percents(recipe: int, stage: int) -> tuple[Path, ...]:
    """Return the paths that `stage_percents` depends on."""
    return (("recipes", recipe, "stages", stage, "mixture", "codePercent"), ("recipes", recipe, "codePercent"), ("grid", "codePercent"))


def stages_of(spec: StudySpec) -> Iterator[tuple[int, Recipe, int, Stage, Path]]:
    """Yield every stage with its recipe, indexes and path."""
    for number, recipe in enumerate(spec.recipes):
        for index, stage in enumerate(recipe.stages):
            yield number, recipe, index, stage, ("recipes", number, "stages", index)


def unknown_size(spec: StudySpec, path: Path, given: str) -> Finding:
    """Return the finding for a size that is neither in the ladder nor in `models`."""
    own = f" or of models ({format_list(spec.models)})" if spec.models else ""
    suggestion = closest_size(given, (*LADDER, *spec.models))
    advice = f'Did you mean "{suggestion}"? ' if suggestion else ""
    wrong = f'"{given}" is not a size of the ladder ({format_list(LADDER, 20)}){own}.'
    return Finding(path, wrong, f"{advice}Define a custom shape under spec.models.", depends_on=(("models",),))


def closest_size(given: str, known: Iterable[str]) -> str:
    """Return the likely intended size: the nearest in parameters, else the nearest in spelling."""
    known = tuple(known)
    counts = {name: count for name in known if (count := _count(name))}
    asked = _count(given)
    if asked and counts:
        best = min(counts, key=lambda name: abs(log(counts[name] / asked)))
        return best if abs(log(counts[best] / asked)) < _MAX_LOG_RATIO else ""
    return closest_match(given, known)


def _count(name: str) -> int:
    try:
        return read_count(name.upper())
    except ValueError:
        return 0
