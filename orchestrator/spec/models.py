"""A study as frozen models: `read_study` returns them; planner, estimate and CRD are built on them.

Field names are snake_case here and camelCase in the file. The models have the values of the file; defaults that depend on the size of a
model (batch, rates, warm-up) stay None until the planner resolves them. A percentage is a Decimal of percent: `10%` is Decimal(10).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, StrictBool

from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND, SUITES
from orchestrator.spec.data import Data
from orchestrator.spec.execution import Budget, Execution
from orchestrator.spec.fields import LABEL_PATTERN, Address, Choice, CodePercent, Label, SizeName, SpecModel, Text
from orchestrator.spec.grid import Grid, ModelShape
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.training import Training

_METRIC: Final = Text(
    "a metric (a suite, or suite/source, or suite/benchmark)", "bpb/web", f"{LABEL_PATTERN}(/[a-z0-9]([-_a-z0-9]{{0,61}}[a-z0-9])?)?", 127
)


class EvaluationSpec(SpecModel):
    """Suites, and the stages after which they are scored."""

    after: tuple[Label, ...] = Field((), max_length=64, description="Names of the stages after which models are scored.")
    suites: tuple[Annotated[str, Choice(SUITES)], ...] = Field((), max_length=64, description="Names of the suites to score.")


class Arm(SpecModel):
    """One side of a contrast: the cells of a recipe at a size and a code proportion, after a stage."""

    recipe: Label = Field(description="Name of a recipe.")
    size: SizeName = Field(description="A size of the recipe.")
    code_percent: CodePercent | None = Field(
        None, description="A code proportion of the grid; omitted if the recipe does not use the grid's."
    )
    stage: Label = Field(description="An evaluated stage of the recipe.")


class Contrast(SpecModel):
    """A difference between two arms, declared before the runs."""

    name: Label = Field(description="Name in the report.")
    metric: Annotated[str, _METRIC] = Field(description="A suite of `evaluation`, or one of its sources or benchmarks: `bpb/web`.")
    arm: Arm = Field(description="Arm to compare.")
    against: Arm = Field(description="Arm to compare it with.")


class StudySpec(SpecModel):
    """The `spec` of a study file."""

    store: Address = Field(
        description="Address of data, checkpoints and records: s3://, gs://, az://, or a folder relative to the study file."
    )
    grid: Grid = Field(description="Sizes x code proportions x seeds.")
    models: dict[SizeName, ModelShape] = Field({}, max_length=64, description="Custom model shapes by name.")
    data: Data = Field(description="Sources, tokenizer and held-out documents.")
    training: Training = Field(description="Training settings of every stage unless a recipe or the stage overrides them.")
    recipes: tuple[Recipe, ...] = Field(min_length=1, max_length=64, description="Sequences of training stages.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Suites, and the stages after which they are scored.")
    contrasts: tuple[Contrast, ...] = Field((), max_length=256, description="Differences between arms, declared before the runs.")
    budget: Budget = Field(default_factory=Budget, description="The maximum cost of the study.")
    execution: Execution = Field(default_factory=Execution, description="Where and how the study runs; not part of any task's identity.")
    paused: StrictBool = Field(False, description="Pause the study: running tasks write a checkpoint and stop.")

    def training_of(self, recipe: Recipe) -> Training:
        """Return the training settings of a recipe: the study's, overridden by the recipe's."""
        return self.training.overridden(recipe.training)


class Metadata(SpecModel):
    """Kubernetes metadata; only the name is read."""

    model_config = ConfigDict(extra="ignore")

    name: Label = Field(description="Name of the study.")


class StudyObject(SpecModel):
    """A study file, or a study's Kubernetes object."""

    api_version: Annotated[str, Choice((API_VERSION,))] = Field(description="Version of the format.")
    kind: Annotated[str, Choice((OBJECT_KIND,))] = Field(description="Kind of the object.")
    metadata: Metadata = Field(description="Name, labels and annotations.")
    spec: StudySpec = Field(description="Specification of the study.")
    status: Any = Field(None, description="Written by the controller.")


@dataclass(frozen=True)
class Study:
    """A study read from a file or object. `path`: the file; relative paths start in its folder. `document`: the `spec` as given."""

    name: str
    spec: StudySpec
    path: str
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)
