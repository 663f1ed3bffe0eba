"""The identities of tasks as data: what `task.json` holds, and how to read it back.

The planner builds tasks, the trainer executes them; neither adds a default of its own. `identity()` returns the object whose canonical
JSON is hashed, `read_identity` is its inverse. Placement (names, paths, image, GPUs, threads, store) is not part of an identity.
"""

from typing import Final, TypeAlias

from orchestrator.contract.identity import digest_of
from orchestrator.contract.kinds.base import Document, Need, TaskIdentity
from orchestrator.contract.kinds.evaluate import EvaluateTask, evaluate_text
from orchestrator.contract.kinds.prepare import PREPARE_VERSION, SHUFFLE_SEED, PrepareTask, Reader, TokenizerTask
from orchestrator.contract.kinds.train import (
    FromInitialisation,
    FromState,
    Optimizer,
    Schedule,
    Shape,
    TrainTask,
    Trajectory,
    read_trajectory,
    train_text,
    trajectory_text,
)
from orchestrator.errors import ContractError

__all__ = [
    "PREPARE_VERSION",
    "SHUFFLE_SEED",
    "TASKS",
    "Document",
    "EvaluateTask",
    "FromInitialisation",
    "FromState",
    "Need",
    "Optimizer",
    "PrepareTask",
    "Reader",
    "Schedule",
    "Shape",
    "Task",
    "TaskIdentity",
    "TokenizerTask",
    "TrainTask",
    "Trajectory",
    "digest_of_task",
    "evaluate_text",
    "read_identity",
    "read_trajectory",
    "train_text",
    "trajectory_text",
]

Task: TypeAlias = TokenizerTask | PrepareTask | TrainTask | EvaluateTask

TASKS: Final[dict[tuple[str, str | None], type[Task]]] = {
    (task.kind, task.output): task for task in (TokenizerTask, PrepareTask, TrainTask, EvaluateTask)
}
"""Every class of task by the `kind` and `output` of its identity."""


def read_identity(document: Document) -> Task:
    """Return the task with this `task.json`. Raises ContractError unless the document is exactly a known identity."""
    try:
        task = TASKS[document["kind"], document.get("output")].read(document)
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        raise ContractError(f"not the identity of a task ({type(problem).__name__}: {problem})") from problem
    if task.identity() != document:
        raise ContractError("the identity has keys or values that this version of the contract does not know")
    return task


def digest_of_task(task: Task) -> str:
    """Return the SHA-256 of the task's canonical JSON."""
    return digest_of(task.identity())
