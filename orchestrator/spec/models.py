"""A study as frozen models: `read_study` returns them; planner, estimate and CRD are built on them.

Field names are Python's here and camelCase in the file. The models hold what the file says; defaults that depend on the size of a model
(batch, rates, warm-up) stay None until the planner resolves them. A percentage is a Decimal of percent: `10%` is Decimal(10).
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
    """Suites, and the stages after which they are scored."""

    after: tuple[Label, ...] = Field((), max_length=64, description="Names of stages.")
    suites: tuple[Annotated[str, Choice(SUITES)], ...] = Field((), max_length=64, description="Names of suites.")


class Arm(Part):
    """One side of a contrast: the cells of a recipe at a size and a proportion, after a stage."""

    recipe: Label = Field(description="Name of a recipe.")
    size: SizeName = Field(description="A size of the recipe.")
    code_percent: CodePercent | None = Field(None, description="A proportion of the grid; left out where the recipe fixes its own.")
    stage: Label = Field(description="A stage of the recipe that is evaluated.")


class Contrast(Part):
    """A difference between two arms, named before the runs."""

    name: Label = Field(description="What the report calls it.")
    metric: Annotated[str, _METRIC] = Field(description="A suite of `evaluation`, or one source or benchmark of it: `bpb/web`.")
    arm: Arm = Field(description="What is compared.")
    against: Arm = Field(description="What it is compared with.")


class StudySpec(Part):
    """The `spec` of a study file."""

    store: Address = Field(description="Data, checkpoints and records: s3://, gs://, az://, or a folder relative to the study file.")
    grid: Grid = Field(description="Sizes x code proportions x seeds.")
    models: dict[SizeName, ModelShape] = Field({}, max_length=64, description="Shapes of one's own, by name.")
    data: Data = Field(description="Sources, and how they become tokens.")
    training: Training = Field(description="Training settings of every stage unless a recipe or the stage overrides them.")
    recipes: tuple[Recipe, ...] = Field(min_length=1, max_length=64, description="What the models go through.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Suites, and the stages after which they are scored.")
    contrasts: tuple[Contrast, ...] = Field((), max_length=256, description="Differences that are named before the runs.")
    budget: Budget = Field(default_factory=Budget, description="The maximum cost of the study.")
    execution: Execution = Field(default_factory=Execution, description="Where and how it runs; never part of an identity.")
    paused: StrictBool = Field(False, description="Stops politely: running tasks write a checkpoint.")

    def training_of(self, recipe: Recipe) -> Training:
        """Return the training settings of a recipe: the study's, overridden by the recipe's."""
        return self.training.overridden(recipe.training)


class Metadata(Part):
    """Kubernetes metadata; only the name is read."""

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
    """A study that was read. `path`: of the file; relative paths start in its folder. `document`: the `spec` as given."""

    name: str
    spec: StudySpec
    path: str
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)
