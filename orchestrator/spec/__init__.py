"""Read study files: text -> frozen models, reporting all mistakes at once.

All callers use `read_study`; the planner and the rest know only the models.
"""

from orchestrator.spec.data import Data, HeldOut, Source, TokenizerFile, TrainTokenizer
from orchestrator.spec.execution import Budget, Execution
from orchestrator.spec.grid import Grid, ModelShape, Seed
from orchestrator.spec.messages import Mistake
from orchestrator.spec.models import Arm, Contrast, EvaluationSpec, Study, StudySpec
from orchestrator.spec.reading import read_bytes, read_object, read_study
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
    "Mistake",
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
    "read_bytes",
    "read_object",
    "read_study",
]
