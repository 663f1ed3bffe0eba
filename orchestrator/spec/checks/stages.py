"""Check the order of the stages of a recipe: where each starts, and its schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.contract.identity import decimal
from orchestrator.contract.vocabulary import StageKind
from orchestrator.spec.checks.lookups import duplicate_names
from orchestrator.spec.messages import Finding, Path
from orchestrator.spec.models import StudySpec
from orchestrator.spec.recipe import Stage
from orchestrator.spec.training import ScheduleSpec


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """A stage with its path, its schedule (merged over the recipe's unless it is a cooldown) and the previous stage."""

    stage: Stage
    path: Path
    merged: ScheduleSpec
    before: "PlacedStage | None"

    @property
    def is_cooldown(self) -> bool:
        return self.stage.kind == StageKind.COOLDOWN

    @property
    def shape(self) -> str:
        return self.merged.shape or ("linear" if self.is_cooldown else "wsd")

    @property
    def has_stable_part(self) -> bool:
        return not self.is_cooldown and self.shape == "wsd"

    @property
    def depends_on(self) -> tuple[Path, ...]:
        """The paths that kind and schedule depend on."""
        recipe = self.path[:2]
        own = ((*self.path, "kind"), (*self.path, "name"), (*self.path, "schedule"))
        return (*own, (*recipe, "training", "schedule"), ("training", "schedule"))


def placed_stages(spec: StudySpec) -> Iterator[PlacedStage]:
    """Yield every stage of every recipe with its merged settings."""
    for number, recipe in enumerate(spec.recipes):
        base, before = spec.training_of(recipe).schedule, None
        for index, stage in enumerate(recipe.stages):
            own = stage.schedule or ScheduleSpec()
            merged = own if stage.kind == StageKind.COOLDOWN else own.over(base)
            before = PlacedStage(stage, ("recipes", number, "stages", index), merged, before)
            yield before


def check_stages(spec: StudySpec) -> Iterator[Finding]:
    """Check that stages can follow each other and that schedules are valid."""
    for number, recipe in enumerate(spec.recipes):
        yield from duplicate_names(("recipes", number, "stages"), (stage.name for stage in recipe.stages), "stage of a recipe")
        if recipe.training is not None:
            yield from _decay_without_wsd(("recipes", number, "training", "schedule"), recipe.training.schedule)
    yield from _decay_without_wsd(("training", "schedule"), spec.training.schedule)
    for placed in placed_stages(spec):
        yield from _first(placed) if placed.before is None else _later(placed, placed.before)
        yield from _schedule(spec, placed)


def _decay_without_wsd(path: Path, schedule: ScheduleSpec) -> Iterator[Finding]:
    if schedule.decay is not None and schedule.shape not in (None, "wsd"):
        wrong = f"shape {schedule.shape} decays over the whole stage; decay is allowed only with shape: wsd."
        yield Finding((*path, "decay"), wrong, "Remove it, or write shape: wsd", depends_on=((*path, "shape"),))


def _first(placed: PlacedStage) -> Iterator[Finding]:
    stage, depends_on = placed.stage, placed.depends_on
    if stage.kind == StageKind.COOLDOWN:
        yield Finding((*placed.path, "kind"), "a cooldown cannot be the first stage of a recipe.", _FIRST, depends_on=depends_on)
    elif stage.kind == StageKind.CONTINUE:
        yield Finding((*placed.path, "kind"), "a continue stage cannot be the first stage of a recipe.", _FIRST, depends_on=depends_on)
    elif stage.start is not None:
        yield Finding(
            (*placed.path, "start"), "the first stage always starts from initial weights.", "Remove start.", depends_on=depends_on
        )
    elif stage.optimizer == "keep":
        yield Finding(
            (*placed.path, "optimizer"), "the first stage has no optimizer state to keep.", "Remove optimizer.", depends_on=depends_on
        )


_FIRST = "Add a stage before it, or write kind: pretrain"


def _later(placed: PlacedStage, before: PlacedStage) -> Iterator[Finding]:
    stage, depends_on = placed.stage, (*placed.depends_on, *before.depends_on)
    if stage.kind == StageKind.PRETRAIN:
        wrong = "a pretrain stage starts from initial weights, so it cannot follow another stage."
        yield Finding((*placed.path, "kind"), wrong, "Write kind: continue, or move the stage to a new recipe.", depends_on=depends_on)
    elif stage.start == "stable" and not before.has_stable_part:
        wrong = f'stage "{before.stage.name}" has no stable part: {_why_no_stable_part(before)}.'
        yield Finding((*placed.path, "start"), wrong, "Write start: result, or give that stage shape: wsd", depends_on=depends_on)
    elif placed.is_cooldown and placed.merged.peak is None and (stage.start == "result" or not before.has_stable_part):
        why = "it starts from a result, whose rate has decayed" if before.has_stable_part else _why_no_stable_part(before)
        wrong = f'the cooldown has no learning rate to start from after stage "{before.stage.name}": {why}.'
        yield Finding(
            (*placed.path, "schedule", "peak"), wrong, 'Give the rate, for example schedule: {peak: "3e-4"}', depends_on=depends_on
        )


def _why_no_stable_part(placed: PlacedStage) -> str:
    return "a cooldown ends at its final rate" if placed.is_cooldown else f"shape {placed.shape} ends at its final rate"


def _schedule(spec: StudySpec, placed: PlacedStage) -> Iterator[Finding]:
    own = placed.stage.schedule or ScheduleSpec()
    path = (*placed.path, "schedule")
    if placed.is_cooldown and own.shape == "wsd":
        wrong = "a cooldown decays over all its tokens; wsd begins with a constant rate."
        yield Finding((*path, "shape"), wrong, "Remove it (the default is linear), or write shape: cosine", depends_on=placed.depends_on)
    elif placed.is_cooldown and own.decay is not None:
        yield Finding(
            (*path, "decay"), "a cooldown decays over all its tokens; decay is not allowed.", "Remove it.", depends_on=placed.depends_on
        )
    elif own.decay is not None and placed.shape != "wsd":
        wrong = f"the schedule of this stage is {placed.shape}, which decays over the whole stage; decay is allowed only with shape: wsd."
        yield Finding((*path, "decay"), wrong, "Remove it, or write shape: wsd", depends_on=placed.depends_on)
    yield from _final_above_peak(spec, placed, own)


def _final_above_peak(spec: StudySpec, placed: PlacedStage, own: ScheduleSpec) -> Iterator[Finding]:
    final, peak = placed.merged.final, placed.merged.peak
    if final is None or peak is None:
        return
    peaks = list(peak.values()) if isinstance(peak, dict) else [peak]
    lowest = min(peaks, default=Decimal(10))
    if final > lowest:
        path = _path_of_final(spec, placed, own)
        wrong = f"the final rate {decimal(final)} is above the peak {decimal(lowest)}."
        yield Finding(path, wrong, "Write a final rate below the peak.", depends_on=(*placed.depends_on, (*path[:-1], "peak")))


def _path_of_final(spec: StudySpec, placed: PlacedStage, own: ScheduleSpec) -> Path:
    recipe = placed.path[1]
    assert isinstance(recipe, int)
    training = spec.recipes[recipe].training
    if own.final is not None:
        return (*placed.path, "schedule", "final")
    if training is not None and training.schedule.final is not None:
        return ("recipes", recipe, "training", "schedule", "final")
    return ("training", "schedule", "final")
