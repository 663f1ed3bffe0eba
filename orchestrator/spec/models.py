"""A study as frozen models: what `read_study` returns and the planner, the price and the CRD are made from.

Field names are Python's here and camelCase in the file. The models hold what the file says; defaults that depend on the size of a model
(batch, rates, warm-up) stay None and are the planner's to settle. A percentage is a Decimal of percent: `10%` is Decimal(10).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, StrictBool

from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND, SUITES
from orchestrator.spec.data import Data
from orchestrator.spec.execution import Budget, Execution
from orchestrator.spec.fields import LABEL_PATTERN, Address, Choice, CodePercent, Label, Part, SizeName, Text
from orchestrator.spec.grid import Grid, ModelShape
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.training import Training

_METRIC: Final = Text(
    "a metric (a suite, or suite/source, or suite/benchmark)", "bpb/web", f"{LABEL_PATTERN}(/[a-z0-9]([-_a-z0-9]{{0,61}}[a-z0-9])?)?", 127
)


class EvaluationSpec(Part):
    """What is scored, and after which stages."""

    after: tuple[Label, ...] = Field((), max_length=64, description="Names of stages.")
    suites: tuple[Annotated[str, Choice(SUITES)], ...] = Field((), max_length=64, description="Names of suites.")


class Arm(Part):
    """One side of a contrast: the cells of a recipe at a size and a proportion, after a stage."""

    recipe: Label = Field(description="Name of a recipe.")
    size: SizeName = Field(description="A size of the recipe.")
    code_percent: CodePercent | None = Field(None, description="A proportion of the grid; left out where the recipe fixes its own.")
    stage: Label = Field(description="A stage of the recipe that is evaluated.")


class Contrast(Part):
    """A difference between two arms that is named before the runs."""

    name: Label = Field(description="What the report calls it.")
    metric: Annotated[str, _METRIC] = Field(description="A suite of `evaluation`, or one source or benchmark of it: `bpb/web`.")
    arm: Arm = Field(description="What is compared.")
    against: Arm = Field(description="What it is compared with.")


class StudySpec(Part):
    """All that a study file says under `spec`."""

    store: Address = Field(description="Data, checkpoints and records: s3://, gs://, az://, or a folder relative to the study file.")
    grid: Grid = Field(description="Sizes x code proportions x seeds.")
    models: dict[SizeName, ModelShape] = Field({}, max_length=64, description="Shapes of one's own, by name.")
    data: Data = Field(description="What is read, and how it becomes tokens.")
    training: Training = Field(description="How every stage is trained unless a recipe or the stage says otherwise.")
    recipes: tuple[Recipe, ...] = Field(min_length=1, max_length=64, description="What the models go through.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="What is scored, and after which stages.")
    contrasts: tuple[Contrast, ...] = Field((), max_length=256, description="Differences that are named before the runs.")
    budget: Budget = Field(default_factory=Budget, description="What the study may cost.")
    execution: Execution = Field(default_factory=Execution, description="Where and how it runs; never part of an identity.")
    paused: StrictBool = Field(False, description="Stops politely: running tasks write a checkpoint.")

    def training_of(self, recipe: Recipe) -> Training:
        """The training of a recipe: the study's, with what the recipe says otherwise."""
        return self.training.overridden(recipe.training)


class Metadata(Part):
    """What Kubernetes keeps about the object; we read its name and leave the rest to Kubernetes."""

    model_config = ConfigDict(extra="ignore")

    name: Label = Field(description="Name of the study.")


class StudyObject(Part):
    """The whole file."""

    api_version: Annotated[str, Choice((API_VERSION,))] = Field(description="Version of the format.")
    kind: Annotated[str, Choice((OBJECT_KIND,))] = Field(description="Kind of the object.")
    metadata: Metadata = Field(description="Name, labels and annotations.")
    spec: StudySpec = Field(description="What is studied, and how.")
    status: Any = Field(None, description="Written by the controller.")


@dataclass(frozen=True)
class Study:
    """A study as it was read. `path`: of the file, relative paths start in its folder. `document`: what stood under `spec`."""

    name: str
    spec: StudySpec
    path: str
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)
