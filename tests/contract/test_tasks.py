"""Identities of tasks are read back unchanged, and rejected unless they match the contract exactly."""

import copy
from typing import Any

import pytest

from orchestrator.contract.identity import dumps
from orchestrator.contract.tasks import (
    EvaluateTask,
    FromInitialisation,
    FromState,
    Optimizer,
    PrepareTask,
    Reader,
    Schedule,
    Shape,
    Task,
    TokenizerTask,
    TrainTask,
    Trajectory,
    evaluate_text,
    read_identity,
    train_text,
    trajectory_text,
)
from orchestrator.errors import ContractError

SHAPE = Shape(128, 10, 2, 512, 50_304, False, 500_000, "1e-5")
OPTIMIZER = Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5")


def trajectory(start: FromInitialisation | FromState, schedule: Schedule) -> Trajectory:
    return Trajectory(start, (("a" * 64, 3), ("b" * 64, 1)), (("b" * 64, 17),), 5, 128, 4, OPTIMIZER, schedule, "fp32", 1)


FRESH = trajectory(FromInitialisation(SHAPE, 3, "0.02"), Schedule("constant", 1024, "0.006"))
LEAF = trajectory(FromState("c" * 64, 4096, True), Schedule("linear", 0, "0.006", "1e-6", 2048))
TASKS: dict[str, Task] = {
    "tokenizer": TokenizerTask(1024, 10**6, 200, (("a" * 64, Reader("text", 2**20), 1), ("b" * 64, Reader("content", 1), 3))),
    "prepare": PrepareTask("a" * 64, Reader("text", 2**20), "b" * 64, 200, None),
    "prepare with a limit": PrepareTask("a" * 64, Reader("text", 2**20), "file:" + "b" * 64, 200, 40),
    "train from weights": TrainTask(FRESH, 4096),
    "train from a state": TrainTask(LEAF, 2048),
    "evaluate": EvaluateTask("c" * 64, 4096, "bpb", {"source": "a" * 64, "documents": 10, "window": 128}, 1),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_identity_is_read_back(task: Task) -> None:
    assert read_identity(copy.deepcopy(task.identity())) == task


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("damage", ["extra key", "missing key", "other kind"])
def test_identity_with_unknown_content_is_rejected(task: Task, damage: str) -> None:
    document: dict[str, Any] = copy.deepcopy(task.identity())
    if damage == "extra key":
        document["threads"] = 2
    elif damage == "missing key":
        document.pop(next(key for key in reversed(document) if key != "kind"))
    else:
        document["kind"] = "judge"
    with pytest.raises(ContractError):
        read_identity(document)


@pytest.mark.parametrize("made", [FRESH, LEAF])
def test_composed_text_is_the_canonical_json(made: Trajectory) -> None:
    assert trajectory_text(made) == dumps(made.identity())
    assert train_text(trajectory_text(made), 4096) == dumps(TrainTask(made, 4096).identity())


def test_composed_text_of_an_evaluation_is_the_canonical_json() -> None:
    task = TASKS["evaluate"]
    assert isinstance(task, EvaluateTask)
    assert evaluate_text(dumps(task.items), task.numerics, task.trajectory, task.tokens, task.suite) == dumps(task.identity())


def test_parameters_are_those_of_the_ladder() -> None:
    assert (SHAPE.n, SHAPE.total) == (9_063_040, 15_501_952)
    tied = Shape(128, 10, 2, 512, 50_304, True, 500_000, "1e-5")
    assert (tied.n, tied.total) == (9_063_040, 9_063_040)
