"""Check evaluation and contrasts: the named stages, suites, recipes and sizes must exist and be scored."""

from collections.abc import Iterator

from orchestrator.contract.vocabulary import BENCHMARK_SUITES, SOURCE_SUITES, SUITES
from orchestrator.spec.checks.lookups import closest_size, duplicate_entries, duplicate_names, percents_of, sizes_of
from orchestrator.spec.messages import Finding, Path, did_you_mean, format_list
from orchestrator.spec.models import Arm, StudySpec
from orchestrator.spec.numbers import format_decimal
from orchestrator.spec.recipe import Recipe

_STAGES: Path = ("recipes", "*", "stages", "*", "name")
_RECIPES: Path = ("recipes", "*", "name")


def check_evaluation(spec: StudySpec) -> Iterator[Finding]:
    """Check that the scored stages exist, and that suites and stages are given together."""
    after, suites = spec.evaluation.after, spec.evaluation.suites
    stages = dict.fromkeys(stage.name for recipe in spec.recipes for stage in recipe.stages)
    for index, name in enumerate(after):
        if name not in stages:
            wrong = f'no recipe has a stage "{name}" ({format_list(stages)}).'
            advice = did_you_mean(name, stages, "Remove it, or give a stage this name.")
            yield Finding(("evaluation", "after", index), wrong, advice, depends_on=(_STAGES,), hides_dependents=True)
    yield from duplicate_entries(("evaluation", "after"), after, "stage")
    yield from duplicate_entries(("evaluation", "suites"), suites, "suite")
    if after and not suites:
        yield Finding(
            ("evaluation", "suites"), "stages are given, but no suites to score them with.", "Write suites: [bpb]", hides_dependents=True
        )
    if suites and not after:
        advice = f"Write after: [{next(iter(stages), 'pretrain')}]"
        wrong = "suites are given, but no stages to score."
        yield Finding(("evaluation", "after"), wrong, advice, depends_on=(_STAGES,), hides_dependents=True)


def check_contrasts(spec: StudySpec) -> Iterator[Finding]:
    """Check that both arms of a contrast have cells, and that its metric is scored."""
    yield from duplicate_names(("contrasts",), (contrast.name for contrast in spec.contrasts), "contrast")
    for number, contrast in enumerate(spec.contrasts):
        path: Path = ("contrasts", number)
        yield from _metric(spec, (*path, "metric"), contrast.metric)
        yield from _arm(spec, (*path, "arm"), contrast.arm)
        yield from _arm(spec, (*path, "against"), contrast.against)
        if contrast.arm == contrast.against:
            yield Finding((*path, "against"), "both arms are the same.", "Change one of them.", depends_on=((*path, "arm"),))
        elif not _share_a_seed(spec, contrast.arm, contrast.against):
            depends_on: tuple[Path, ...] = ((*path, "arm"), _RECIPES, ("recipes", "*", "seeds"))
            wrong = "the recipes of the two arms have no seed in common, so their cells cannot be paired by seed."
            yield Finding((*path, "against"), wrong, "Give both recipes a common seed.", depends_on=depends_on)


def _share_a_seed(spec: StudySpec, arm: Arm, against: Arm) -> bool:
    seeds = [
        {seed.data for seed in recipe.seeds or spec.grid.seeds}
        for one in (arm, against)
        for recipe in spec.recipes
        if recipe.name == one.recipe
    ]
    return len(seeds) != 2 or bool(seeds[0] & seeds[1])


def _metric(spec: StudySpec, path: Path, metric: str) -> Iterator[Finding]:
    suite, _, part = metric.partition("/")
    suites = spec.evaluation.suites
    if suite not in suites:
        wrong = f'"{suite}" is not one of the scored suites ({format_list(suites) or "none"}).'
        advice = "Add it to evaluation.suites." if suite in SUITES else did_you_mean(suite, suites, "Write one of these.")
        yield Finding(path, wrong, advice, depends_on=(("evaluation", "suites"),))
    elif part:
        known = [source.name for source in spec.data.sources] if suite in SOURCE_SUITES else BENCHMARK_SUITES[suite]
        if part not in known:
            wrong = f'"{part}" is not a part of {suite} ({format_list(known)}).'
            yield Finding(path, wrong, did_you_mean(part, known, "Write one of these."), depends_on=(("data", "sources", "*", "name"),))


def _arm(spec: StudySpec, path: Path, arm: Arm) -> Iterator[Finding]:
    recipes = {recipe.name: (number, recipe) for number, recipe in enumerate(spec.recipes)}
    if arm.recipe not in recipes:
        wrong = f'"{arm.recipe}" is not a recipe ({format_list(recipes)}).'
        yield Finding((*path, "recipe"), wrong, did_you_mean(arm.recipe, recipes, "Write one of these."), depends_on=(_RECIPES,))
        return
    number, recipe = recipes[arm.recipe]
    inside: Path = ("recipes", number)
    sizes = sizes_of(spec, recipe)
    if arm.size not in sizes:
        suggestion = closest_size(arm.size, sizes)
        advice = f'Did you mean "{suggestion}"?' if suggestion else "Write one of these."
        wrong = f'no cell of recipe "{recipe.name}" has the size "{arm.size}" ({format_list(sizes)}).'
        yield Finding((*path, "size"), wrong, advice, depends_on=((*inside, "sizes"), ("grid", "sizes"), _RECIPES))
    yield from _arm_stage(spec, path, arm, recipe, inside)
    yield from _arm_percent(spec, path, arm, recipe, inside)


def _arm_stage(spec: StudySpec, path: Path, arm: Arm, recipe: Recipe, inside: Path) -> Iterator[Finding]:
    stages = [stage.name for stage in recipe.stages]
    depends_on: tuple[Path, ...] = ((*inside, "stages", "*", "name"), ("evaluation", "after"), _RECIPES)
    if arm.stage not in stages:
        wrong = f'recipe "{recipe.name}" has no stage "{arm.stage}" ({format_list(stages)}).'
        yield Finding((*path, "stage"), wrong, did_you_mean(arm.stage, stages, "Write one of these."), depends_on=depends_on)
    elif arm.stage not in spec.evaluation.after:
        wrong = f'stage "{arm.stage}" is not scored (evaluation.after: {format_list(spec.evaluation.after) or "none"}).'
        yield Finding((*path, "stage"), wrong, "Add it to evaluation.after.", depends_on=depends_on)


def _arm_percent(spec: StudySpec, path: Path, arm: Arm, recipe: Recipe, inside: Path) -> Iterator[Finding]:
    percents = percents_of(spec, recipe)
    depends_on: tuple[Path, ...] = (("grid", "codePercent"), (*inside, "codePercent"), (*inside, "stages", "*", "mixture"), _RECIPES)
    place = (*path, "codePercent")
    if not recipe.follows_grid:
        if arm.code_percent is not None:
            wrong = f'recipe "{recipe.name}" does not use the proportions of the grid, so its cells have no codePercent.'
            yield Finding(place, wrong, "Remove codePercent.", depends_on=depends_on)
    elif arm.code_percent is None:
        wrong = f'this is missing: recipe "{recipe.name}" has a cell for every proportion ({format_list(map(format_decimal, percents))}).'
        yield Finding(place, wrong, f"Write codePercent: {format_decimal(percents[0]) if percents else 25}", depends_on=depends_on)
    elif arm.code_percent not in percents:
        known = format_list(map(format_decimal, percents))
        wrong = f'no cell of recipe "{recipe.name}" has {format_decimal(arm.code_percent)} % code ({known}).'
        yield Finding(place, wrong, "Write one of these.", depends_on=depends_on)
