"""Check custom shapes, maps by size, and tolerations."""

from collections.abc import Iterator, Mapping

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.checks.lookups import unknown_size
from orchestrator.spec.messages import Finding, Path
from orchestrator.spec.models import StudySpec
from orchestrator.spec.training import PartialTraining, ScheduleSpec


def check_models(spec: StudySpec) -> Iterator[Finding]:
    """Check that heads divide the width into even parts, and that names are not in the ladder."""
    for name, shape in spec.models.items():
        path: Path = ("models", name)
        if name in LADDER:
            wrong = f'"{name}" is a size of the ladder; a custom shape needs another name.'
            yield Finding(path, wrong, f'Give it another name, for example "{name}-custom".')
        if shape.width % shape.heads:
            wrong = f"a width of {shape.width} is not divisible by {shape.heads} heads."
            yield Finding((*path, "heads"), wrong, f"Write heads: {_fitting(shape.width, shape.heads)}", depends_on=((*path, "width"),))
        elif shape.width // shape.heads % 2:
            wide = shape.width // shape.heads
            wrong = (
                f"{shape.heads} heads at a width of {shape.width} have a width of {wide} each; rotary embeddings need an even head width."
            )
            yield Finding((*path, "heads"), wrong, f"Write heads: {_fitting(shape.width, shape.heads)}", depends_on=((*path, "width"),))


def _fitting(width: int, heads: int) -> str:
    fitting = [count for count in range(1, min(width // 2, 1024) + 1) if width % count == 0 and width // count % 2 == 0]
    return f"{min(fitting, key=lambda count: abs(count - heads))}" if fitting else "1, and an even width."


def check_maps_by_size(spec: StudySpec) -> Iterator[Finding]:
    """Check that the keys of maps by size are sizes."""
    for path, given in _maps(spec):
        for size in given if isinstance(given, Mapping) else ():
            if size not in LADDER and size not in spec.models:
                yield unknown_size(spec, (*path, size), size)


def _maps(spec: StudySpec) -> Iterator[tuple[Path, object]]:
    yield from _maps_of_training(("training",), spec.training)
    for number, recipe in enumerate(spec.recipes):
        if recipe.training is not None:
            yield from _maps_of_training(("recipes", number, "training"), recipe.training)
        for index, stage in enumerate(recipe.stages):
            if stage.schedule is not None:
                yield from _maps_of_schedule(("recipes", number, "stages", index, "schedule"), stage.schedule)
    yield ("execution", "gpusPerPod"), spec.execution.gpus_per_pod
    yield ("execution", "nodes"), spec.execution.nodes
    yield ("execution", "microBatch"), spec.execution.micro_batch


def _maps_of_training(path: Path, training: PartialTraining) -> Iterator[tuple[Path, object]]:
    yield (*path, "batch"), training.batch
    yield (*path, "deviation"), training.deviation
    yield from _maps_of_schedule((*path, "schedule"), training.schedule)


def _maps_of_schedule(path: Path, schedule: ScheduleSpec) -> Iterator[tuple[Path, object]]:
    yield (*path, "peak"), schedule.peak
    yield (*path, "warmup"), schedule.warmup


def check_tolerations(spec: StudySpec) -> Iterator[Finding]:
    """Check that Kubernetes accepts the tolerations."""
    for index, toleration in enumerate(spec.execution.tolerations):
        path: Path = ("execution", "tolerations", index)
        if toleration.operator == "Exists" and toleration.value is not None:
            yield Finding((*path, "value"), "operator Exists does not allow a value.", "Remove it, or write operator: Equal")
        if toleration.operator == "Equal" and toleration.key is None:
            yield Finding(
                (*path, "key"), "operator Equal requires a key.", "Write key: ..., or operator: Exists", depends_on=((*path, "operator"),)
            )
