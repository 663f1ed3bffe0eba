"""Reads study files: text -> frozen models, with every mistake at once.

Everybody who needs a study calls `read_study`; the planner and the rest know only the models.
"""

from pathlib import Path

from orchestrator.spec.data import Data, HeldOut, Source, TokenizerFile, TrainTokenizer
from orchestrator.spec.execution import Budget, Execution
from orchestrator.spec.grid import Grid, ModelShape, Seed
from orchestrator.spec.models import Arm, Contrast, EvaluationSpec, Study, StudySpec
from orchestrator.spec.recipe import Mixture, Recipe, Stage, Tokens
from orchestrator.spec.training import OptimizerSpec, PartialTraining, ScheduleSpec, Training

__all__ = [
    "Arm",
    "Budget",
    "Contrast",
    "Data",
    "EvaluationSpec",
    "Execution",
    "Grid",
    "HeldOut",
    "Mixture",
    "ModelShape",
    "OptimizerSpec",
    "PartialTraining",
    "Recipe",
    "ScheduleSpec",
    "Seed",
    "Source",
    "Stage",
    "Study",
    "StudySpec",
    "TokenizerFile",
    "Tokens",
    "TrainTokenizer",
    "Training",
    "read_study",
]


def read_study(path: Path | str) -> Study:
    """The study in the file at `path`."""
    import yaml

    document = yaml.safe_load(Path(path).read_text())
    spec = StudySpec.model_validate(document["spec"], by_alias=True, by_name=False)
    return Study(document["metadata"]["name"], spec, str(path), document["spec"])
