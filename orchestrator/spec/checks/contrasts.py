"""Check evaluation and contrasts: what they name must exist and be scored."""

from collections.abc import Iterator

from orchestrator.contract.vocabulary import BENCHMARK_SUITES, SOURCE_SUITES, SUITES
from orchestrator.spec.checks.lookups import nearest_size, percents_of, same_names, sizes_of, twice
from orchestrator.spec.messages import Finding, Path, did_you_mean, listed
from orchestrator.spec.models import Arm, StudySpec
from orchestrator.spec.numbers import written
from orchestrator.spec.recipe import Recipe

_STAGES: Path = ("recipes", "*", "stages", "*", "name")
_RECIPES: Path = ("recipes", "*", "name")


def check_evaluation(spec: StudySpec) -> Iterator[Finding]:
    """Check that the stages exist in a recipe and that there are suites."""
    after, suites = spec.evaluation.after, spec.evaluation.suites
    stages = dict.fromkeys(stage.name for recipe in spec.recipes for stage in recipe.stages)
    for index, name in enumerate(after):
        if name not in stages:
            wrong = f'no recipe has a stage "{name}" ({listed(stages)}).'
            advice = did_you_mean(name, stages, "Take it away, or name a stage so.")
            yield Finding(("evaluation", "after", index), wrong, advice, reads=(_STAGES,), voids=True)
    yield from twice(("evaluation", "after"), after, "stage")
    yield from twice(("evaluation", "suites"), suites, "suite")
    if after and not suites:
        yield Finding(("evaluation", "suites"), "stages are named, and no suite to score them with.", "Write suites: [bpb]", voids=True)
    if suites and not after:
        advice = f"Write after: [{next(iter(stages), 'pretrain')}]"
        wrong = "suites are named, and no stage after which they are scored."
        yield Finding(("evaluation", "after"), wrong, advice, reads=(_STAGES,), voids=True)


def check_contrasts(spec: StudySpec) -> Iterator[Finding]:
    """Check that both arms of a contrast have cells, and that its metric is scored."""
    yield from same_names(("contrasts",), (contrast.name for contrast in spec.contrasts), "contrast")
    for number, contrast in enumerate(spec.contrasts):
        path: Path = ("contrasts", number)
        yield from _metric(spec, (*path, "metric"), contrast.metric)
        yield from _arm(spec, (*path, "arm"), contrast.arm)
        yield from _arm(spec, (*path, "against"), contrast.against)
        if contrast.arm == contrast.against:
            yield Finding((*path, "against"), "both arms are the same.", "Change one of them.", reads=((*path, "arm"),))
        elif not _share_a_seed(spec, contrast.arm, contrast.against):
            reads: tuple[Path, ...] = ((*path, "arm"), _RECIPES, ("recipes", "*", "seeds"))
            wrong = "no seed goes through the recipes of both arms, so that nothing can be compared seed by seed."
            yield Finding((*path, "against"), wrong, "Give the two recipes a seed in common.", reads=reads)


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
        wrong = f'"{suite}" is not among the suites that are scored ({listed(suites) or "none"}).'
        advice = "Write it under evaluation.suites too." if suite in SUITES else did_you_mean(suite, suites, "Write one of these.")
        yield Finding(path, wrong, advice, reads=(("evaluation", "suites"),))
    elif part:
        known = [source.name for source in spec.data.sources] if suite in SOURCE_SUITES else BENCHMARK_SUITES[suite]
        if part not in known:
            wrong = f'"{part}" is not a part of {suite} ({listed(known)}).'
            yield Finding(path, wrong, did_you_mean(part, known, "Write one of these."), reads=(("data", "sources", "*", "name"),))


def _arm(spec: StudySpec, path: Path, arm: Arm) -> Iterator[Finding]:
    recipes = {recipe.name: (number, recipe) for number, recipe in enumerate(spec.recipes)}
    if arm.recipe not in recipes:
        wrong = f'"{arm.recipe}" is not a recipe ({listed(recipes)}).'
        yield Finding((*path, "recipe"), wrong, did_you_mean(arm.recipe, recipes, "Write one of these."), reads=(_RECIPES,))
        return
    number, recipe = recipes[arm.recipe]
    inside: Path = ("recipes", number)
    sizes = sizes_of(spec, recipe)
    if arm.size not in sizes:
        meant = nearest_size(arm.size, sizes)
        advice = f'Did you mean "{meant}"?' if meant else "Write one of these."
        wrong = f'no cell of recipe "{recipe.name}" has the size "{arm.size}" ({listed(sizes)}).'
        yield Finding((*path, "size"), wrong, advice, reads=((*inside, "sizes"), ("grid", "sizes"), _RECIPES))
    yield from _arm_stage(spec, path, arm, recipe, inside)
    yield from _arm_percent(spec, path, arm, recipe, inside)


def _arm_stage(spec: StudySpec, path: Path, arm: Arm, recipe: Recipe, inside: Path) -> Iterator[Finding]:
    stages = [stage.name for stage in recipe.stages]
    reads: tuple[Path, ...] = ((*inside, "stages", "*", "name"), ("evaluation", "after"), _RECIPES)
    if arm.stage not in stages:
        wrong = f'recipe "{recipe.name}" has no stage "{arm.stage}" ({listed(stages)}).'
        yield Finding((*path, "stage"), wrong, did_you_mean(arm.stage, stages, "Write one of these."), reads=reads)
    elif arm.stage not in spec.evaluation.after:
        wrong = f'stage "{arm.stage}" is not scored (evaluation.after: {listed(spec.evaluation.after) or "none"}).'
        yield Finding((*path, "stage"), wrong, "Write it under evaluation.after too.", reads=reads)


def _arm_percent(spec: StudySpec, path: Path, arm: Arm, recipe: Recipe, inside: Path) -> Iterator[Finding]:
    percents = percents_of(spec, recipe)
    reads: tuple[Path, ...] = (("grid", "codePercent"), (*inside, "codePercent"), (*inside, "stages", "*", "mixture"), _RECIPES)
    place = (*path, "codePercent")
    if not recipe.follows_grid:
        if arm.code_percent is not None:
            wrong = f'recipe "{recipe.name}" fixes its own proportions, so that its cells have none.'
            yield Finding(place, wrong, "Take codePercent away.", reads=reads)
    elif arm.code_percent is None:
        wrong = f'this is missing: recipe "{recipe.name}" has a cell for every proportion ({listed(map(written, percents))}).'
        yield Finding(place, wrong, f"Write codePercent: {written(percents[0]) if percents else 25}", reads=reads)
    elif arm.code_percent not in percents:
        wrong = f'no cell of recipe "{recipe.name}" has {written(arm.code_percent)} % code ({listed(map(written, percents))}).'
        yield Finding(place, wrong, "Write one of these.", reads=reads)
