"""Check the order of the stages of a recipe: where each starts, and its schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.contract.identity import decimal
from orchestrator.contract.vocabulary import StageKind
from orchestrator.spec.checks.lookups import same_names
from orchestrator.spec.messages import Finding, Path
from orchestrator.spec.models import StudySpec
from orchestrator.spec.recipe import Stage
from orchestrator.spec.training import ScheduleSpec


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its path, the previous stage, and its schedule, which is merged over the recipe's unless it is a cooldown."""

    stage: Stage
    path: Path
    merged: ScheduleSpec
    before: "Step | None"

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
    def reads(self) -> tuple[Path, ...]:
        """The paths that kind and schedule depend on."""
        recipe = self.path[:2]
        own = ((*self.path, "kind"), (*self.path, "name"), (*self.path, "schedule"))
        return (*own, (*recipe, "training", "schedule"), ("training", "schedule"))


def steps_of(spec: StudySpec) -> Iterator[Step]:
    """Yield every stage of every recipe with its merged settings."""
    for number, recipe in enumerate(spec.recipes):
        base, before = spec.training_of(recipe).schedule, None
        for index, stage in enumerate(recipe.stages):
            own = stage.schedule or ScheduleSpec()
            merged = own if stage.kind == StageKind.COOLDOWN else own.over(base)
            before = Step(stage, ("recipes", number, "stages", index), merged, before)
            yield before


def check_stages(spec: StudySpec) -> Iterator[Finding]:
    """Check that stages can follow each other and that schedules are valid."""
    for number, recipe in enumerate(spec.recipes):
        yield from same_names(("recipes", number, "stages"), (stage.name for stage in recipe.stages), "stage of a recipe")
        if recipe.training is not None:
            yield from _decay_without_wsd(("recipes", number, "training", "schedule"), recipe.training.schedule)
    yield from _decay_without_wsd(("training", "schedule"), spec.training.schedule)
    for step in steps_of(spec):
        yield from _first(step) if step.before is None else _later(step, step.before)
        yield from _schedule(spec, step)


def _decay_without_wsd(path: Path, schedule: ScheduleSpec) -> Iterator[Finding]:
    if schedule.decay is not None and schedule.shape not in (None, "wsd"):
        wrong = f"shape {schedule.shape} falls over the whole stage; only wsd has a decay."
        yield Finding((*path, "decay"), wrong, "Take it away, or write shape: wsd", reads=((*path, "shape"),))


def _first(step: Step) -> Iterator[Finding]:
    stage, reads = step.stage, step.reads
    if stage.kind == StageKind.COOLDOWN:
        yield Finding((*step.path, "kind"), "a cooldown is the first stage, and nothing is there to cool.", _FIRST, reads=reads)
    elif stage.kind == StageKind.CONTINUE:
        yield Finding((*step.path, "kind"), "a continue is the first stage, and nothing is there to continue.", _FIRST, reads=reads)
    elif stage.start is not None:
        yield Finding((*step.path, "start"), "the first stage starts from initial weights.", "Take start away.", reads=reads)
    elif stage.optimizer == "keep":
        yield Finding((*step.path, "optimizer"), "the first stage has no moments to keep.", "Take optimizer away.", reads=reads)


_FIRST = "Put a stage before it, or write kind: pretrain"


def _later(step: Step, before: Step) -> Iterator[Finding]:
    stage, reads = step.stage, (*step.reads, *before.reads)
    if stage.kind == StageKind.PRETRAIN:
        wrong = "a pretrain starts from initial weights, and stands after another stage."
        yield Finding((*step.path, "kind"), wrong, "Write kind: continue, or begin a recipe of its own with it.", reads=reads)
    elif stage.start == "stable" and not before.has_stable_part:
        wrong = f'stage "{before.stage.name}" has no stable part: {_why_unstable(before)}.'
        yield Finding((*step.path, "start"), wrong, "Write start: result, or give that stage shape: wsd", reads=reads)
    elif step.is_cooldown and step.merged.peak is None and (stage.start == "result" or not before.has_stable_part):
        why = "it starts from a result" if before.has_stable_part else _why_unstable(before)
        wrong = f'the cooldown finds no rate to start from after stage "{before.stage.name}": {why}.'
        yield Finding((*step.path, "schedule", "peak"), wrong, 'Write schedule: {peak: "3e-4"} with a rate of your own.', reads=reads)


def _why_unstable(step: Step) -> str:
    return "a cooldown ends at its final rate" if step.is_cooldown else f"shape {step.shape} ends at its final rate"


def _schedule(spec: StudySpec, step: Step) -> Iterator[Finding]:
    own = step.stage.schedule or ScheduleSpec()
    path = (*step.path, "schedule")
    if step.is_cooldown and own.shape == "wsd":
        wrong = "a cooldown falls over all of its tokens; wsd is flat at first."
        yield Finding((*path, "shape"), wrong, "Take it away (a cooldown is linear), or write shape: cosine", reads=step.reads)
    elif step.is_cooldown and own.decay is not None:
        yield Finding(
            (*path, "decay"), "a cooldown falls over all of its tokens, so that it has no decay.", "Take it away.", reads=step.reads
        )
    elif own.decay is not None and step.shape != "wsd":
        wrong = f"the schedule of this stage is {step.shape}, which falls over the whole stage; only wsd has a decay."
        yield Finding((*path, "decay"), wrong, "Take it away, or write shape: wsd", reads=step.reads)
    yield from _final_above_peak(spec, step, own)


def _final_above_peak(spec: StudySpec, step: Step, own: ScheduleSpec) -> Iterator[Finding]:
    final, peak = step.merged.final, step.merged.peak
    if final is None or peak is None:
        return
    peaks = list(peak.values()) if isinstance(peak, dict) else [peak]
    lowest = min(peaks, default=Decimal(10))
    if final > lowest:
        path = _where_final_stands(spec, step, own)
        wrong = f"the final rate {decimal(final)} is above the peak {decimal(lowest)}."
        yield Finding(path, wrong, "Write a final rate below the peak.", reads=(*step.reads, (*path[:-1], "peak")))


def _where_final_stands(spec: StudySpec, step: Step, own: ScheduleSpec) -> Path:
    recipe = step.path[1]
    assert isinstance(recipe, int)
    training = spec.recipes[recipe].training
    if own.final is not None:
        return (*step.path, "schedule", "final")
    if training is not None and training.schedule.final is not None:
        return ("recipes", recipe, "training", "schedule", "final")
    return ("training", "schedule", "final")
