"""Lookups that several checks share."""

from collections.abc import Hashable, Iterable, Iterator
from decimal import Decimal
from math import log

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.messages import Finding, Path, listed, nearest
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import read_count
from orchestrator.spec.recipe import Recipe, Stage

# Beyond this ratio two sizes are not a slip of the finger
_SLIP = log(1.3)


def repeated(values: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield the index of every repeated value, with the index of its first occurrence."""
    first: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if value in first:
            yield index, first[value]
        else:
            first[value] = index


def twice(path: Path, values: Iterable[Hashable], what: str) -> Iterator[Finding]:
    """Yield a finding for every repeated entry of a list."""
    for index, first in repeated(values):
        wrong = f"this {what} stands here a second time (first as entry {first})."
        yield Finding((*path, index), wrong, "Take one of the two away.", reads=((*path, first),))


def same_names(path: Path, names: Iterable[str], what: str) -> Iterator[Finding]:
    """Yield a finding for every name that repeats an earlier one."""
    for index, first in repeated(names := list(names)):
        wrong = f'entry {first} is called "{names[index]}" too, and every {what} has a name of its own.'
        advice = f'Give it another name, for example "{names[index]}-2".'
        yield Finding((*path, index, "name"), wrong, advice, reads=((*path, first, "name"),), voids=True)


def sizes_of(spec: StudySpec, recipe: Recipe) -> tuple[str, ...]:
    """Return the sizes of a recipe."""
    return spec.grid.sizes if recipe.sizes is None else recipe.sizes


def percents_of(spec: StudySpec, recipe: Recipe) -> tuple[Decimal, ...]:
    """Return the code proportions of a recipe."""
    return spec.grid.code_percent if recipe.code_percent is None else recipe.code_percent


def stage_percents(spec: StudySpec, recipe: Recipe, stage: Stage) -> tuple[Decimal, ...]:
    """Return the code percentages of a stage in the cells of its recipe."""
    percent = stage.mixture.code_percent
    return percents_of(spec, recipe) if percent == "grid" else (percent,)


def percents_read(recipe: int, stage: int) -> tuple[Path, ...]:
    """Return the paths that `stage_percents` depends on."""
    return (("recipes", recipe, "stages", stage, "mixture", "codePercent"), ("recipes", recipe, "codePercent"), ("grid", "codePercent"))


def stages_of(spec: StudySpec) -> Iterator[tuple[int, Recipe, int, Stage, Path]]:
    """Yield every stage with its recipe, indexes and path."""
    for number, recipe in enumerate(spec.recipes):
        for index, stage in enumerate(recipe.stages):
            yield number, recipe, index, stage, ("recipes", number, "stages", index)


def unknown_size(spec: StudySpec, path: Path, given: str) -> Finding:
    """Return the finding for a size that is neither in the ladder nor in `models`."""
    own = f" or of models ({listed(spec.models)})" if spec.models else ""
    meant = nearest_size(given, (*LADDER, *spec.models))
    advice = f'Did you mean "{meant}"? ' if meant else ""
    wrong = f'"{given}" is not a size of the ladder ({listed(LADDER, 20)}){own}.'
    return Finding(path, wrong, f"{advice}A shape of your own goes under spec.models.", reads=(("models",),))


def nearest_size(given: str, known: Iterable[str]) -> str:
    """Return the likely intended size: the nearest in parameters, else the nearest in spelling."""
    known = tuple(known)
    counts = {name: count for name in known if (count := _count(name))}
    asked = _count(given)
    if asked and counts:
        best = min(counts, key=lambda name: abs(log(counts[name] / asked)))
        return best if abs(log(counts[best] / asked)) < _SLIP else ""
    return nearest(given, known)


def _count(name: str) -> int:
    try:
        return read_count(name.upper())
    except ValueError:
        return 0
