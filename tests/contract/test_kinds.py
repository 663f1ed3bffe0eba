"""Every consumer handles every kind of task: a new kind fails these tests until all consumers support it."""

from dataclasses import replace
from importlib import import_module

import pytest
from trainer.attempt.perform import RUNNERS

from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.kinds import KINDS
from orchestrator.contract.tasks import TASKS, EvaluateTask, FromState, Need, PrepareTask, Reader, TokenizerTask, TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.spec.execution import Resources, ResourcesByKind
from orchestrator.store.addresses import work_root
from tests.conftest import trajectory

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.mark.parametrize("kind", TaskKind)
def test_every_kind_is_registered(kind: TaskKind) -> None:
    assert kind in KINDS
    assert any(task.kind == kind for task in TASKS.values())


@pytest.mark.parametrize("kind", TaskKind)
def test_the_trainer_performs_every_kind(kind: TaskKind) -> None:
    assert callable(import_module(RUNNERS[kind]).run)


@pytest.mark.parametrize("kind", TaskKind)
def test_a_study_can_set_the_resources_of_every_kind(kind: TaskKind) -> None:
    memory = Resources(memory="3Gi")
    assert ResourcesByKind(**{str(kind): memory}).of(kind) == memory


@pytest.mark.parametrize(
    ("task", "needs", "work", "numerics"),
    [
        (TokenizerTask(300, 1000, 200, ((A, Reader("text", 10), 1),)), [], C, None),
        (PrepareTask(A, Reader("text", 10), B, 200, None), [Need(B)], C, None),
        (PrepareTask(A, Reader("text", 10), "file:" + B, 200, None), [], C, None),
        (TrainTask(trajectory(1), 512), [Need(A)], None, NUMERICS),
        (EvaluateTask(A, 512, "bpb", {"source": B}, NUMERICS), [Need(A, 512), Need(B)], C, NUMERICS),
        (EvaluateTask(A, 512, "code", {}, NUMERICS), [Need(A, 512)], C, NUMERICS),
    ],
)
def test_a_task_has_the_expected_inputs_work_root_and_numerics(
    task: TokenizerTask | PrepareTask | TrainTask | EvaluateTask, needs: list[Need], work: str | None, numerics: int | None
) -> None:
    assert list(task.needs()) == needs
    assert task.work_digest(C) == (work or task.result().digest)  # type: ignore[union-attr]
    assert task.required_numerics() == numerics
    assert type(task).read(task.identity()) == task


def test_a_trajectory_that_continues_another_reads_its_state() -> None:
    continued = replace(trajectory(1), start=FromState(B, 1024, keep_optimizer=True))
    assert list(TrainTask(continued, 512).needs()) == [Need(A), Need(B, 1024)]


def test_horizons_of_one_trajectory_share_their_work() -> None:
    short, long = TrainTask(trajectory(1), 512), TrainTask(trajectory(1), 1024)
    assert short.work_digest(A) == long.work_digest(B)
    assert work_root(short.kind, short.work_digest(A)).startswith("trajectories/")
    assert work_root(TaskKind.EVALUATE, A) == f"tasks/{A}"
