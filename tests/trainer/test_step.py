"""Steps with a non-finite loss or gradient, and micro-batches that do not fit into memory."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from trainer.checkpoints.state import Position, State
from trainer.context import Context
from trainer.data.sources import Mixture
from trainer.model.loss import head_loss
from trainer.model.transformer import initialised
from trainer.training.metrics_recorder import MetricsRecorder
from trainer.training.optimizer import adamw
from trainer.training.step import SKIPS_ALLOWED, step

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.tasks import FromInitialisation, Optimizer, Schedule, Shape, TrainTask, Trajectory
from orchestrator.errors import TaskRefused
from orchestrator.store import Store, leases, metrics
from orchestrator.store.leases import Holder
from orchestrator.store.memory import in_memory_store

WORK = f"trajectories/{'a' * 64}"
VOCABULARY, LENGTH, BATCH = 64, 16, 4
STEP = LENGTH * BATCH
START = FromInitialisation(Shape(16, 1, 2, 32, VOCABULARY, False, 10_000, "1e-5"), 1, "0.06")
ADAMW = Optimizer("0.9", "0.95", "1e-8", "0.1", "0", "1", "1e-4")
TRAJECTORY = Trajectory(
    START, (("0" * 64, 1),), (), 1, LENGTH, BATCH, ADAMW, Schedule("constant", 0, "0.01"), "fp32", NUMERICS
)  # fmt: skip


class Windows:
    """A mixture whose steps in `non_finite` read only the id without a finite embedding."""

    def __init__(self, non_finite: set[int]) -> None:
        self.non_finite = non_finite

    def batch(self, number: int) -> Any:
        @dataclass
        class Read:
            ids: np.ndarray[Any, np.dtype[np.int64]]

        return Read(np.full((BATCH, LENGTH + 1), VOCABULARY - 1) if number in self.non_finite else np.arange(68).reshape(4, 17) % 60)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store() -> Store:
    return in_memory_store()


@pytest.fixture
def curve(store: Store, tmp_path: Path) -> MetricsRecorder:
    task = TrainTask(TRAJECTORY, 100 * STEP)
    lease = leases.acquire(store, WORK, "b" * 64, Holder())
    return MetricsRecorder(Context(store, "b" * 64, task, lease, Placement(), tmp_path), task.tokens)


def non_finite_state() -> State:
    """Return a state whose embedding of one id is NaN."""
    model = initialised(START)
    with torch.no_grad():
        model.embedding[VOCABULARY - 1] = torch.nan
    return State(model, adamw(model, ADAMW), Position())


def test_non_finite_step_is_skipped_and_position_advances(curve: MetricsRecorder) -> None:
    state, windows = non_finite_state(), cast(Mixture, Windows({1, 2}))
    weights, positions = [], []
    for _ in range(4):
        step(TRAJECTORY, windows, state, 0, curve)
        weights.append(state.model.layers.state_dict()["0.qkv"].clone())
        positions.append(state.position)
    assert [torch.equal(weights[n], weights[n - 1]) for n in (1, 2, 3)] == [True, True, False]
    assert [(at.step, at.tokens, at.skipped, at.skipped_in_row, len(at.losses)) for at in positions] == [
        (1, STEP, 0, 0, 1), (2, 2 * STEP, 1, 1, 1), (3, 3 * STEP, 2, 2, 1), (4, 4 * STEP, 2, 0, 2),
    ]  # fmt: skip
    assert len({at.token_hash for at in positions}) == 4


def test_too_many_non_finite_steps_refuse_the_task(store: Store, curve: MetricsRecorder) -> None:
    state = non_finite_state()
    windows = cast(Mixture, Windows(set(range(1, 100)) - {SKIPS_ALLOWED + 1}))
    for _ in range(2 + 2 * SKIPS_ALLOWED):
        step(TRAJECTORY, windows, state, 0, curve)
    with pytest.raises(TaskRefused, match=r"11 steps in a row up to step 23 had a non-finite loss or gradient \(loss nan"):
        step(TRAJECTORY, windows, state, 0, curve)
    losses = [row["value"] for row in metrics.series(store, WORK).to_pylist() if row["name"] == "loss"]
    assert [number for number, loss in enumerate(losses, start=1) if isfinite(loss)] == [1, SKIPS_ALLOWED + 2]


def limit_memory(monkeypatch: pytest.MonkeyPatch, refused: Container[int]) -> list[int]:
    """Raise out-of-memory at these forward passes, counted from 1. Return the list of micro-batch sizes tried."""
    tried = list[int]()

    def limited_head_loss(hidden: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tried.append(len(hidden) // LENGTH)
        if len(tried) in refused:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return head_loss(hidden, *arguments)

    monkeypatch.setattr("trainer.training.step.head_loss", limited_head_loss)
    return tried


def test_micro_batch_is_halved_on_out_of_memory(
    curve: MetricsRecorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, halved = (State(model, adamw(model, ADAMW), Position()) for model in (initialised(START), initialised(START)))
    for _ in range(2):
        step(TRAJECTORY, cast("Mixture", Windows(set())), whole, 0, curve)
    tried = limit_memory(monkeypatch, {1, 3})
    for _ in range(2):
        step(TRAJECTORY, cast("Mixture", Windows(set())), halved, 0, curve)
    assert tried == [4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert "4 sequences do not fit into GPU memory" in capsys.readouterr().err
    assert halved.position.token_hash == whole.position.token_hash
    for one, other in zip(whole.model.parameters(), halved.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("micro_batch", "hint"), [(4, "set execution.microBatch lower"), (0, "larger GPU")])
def test_micro_batch_that_does_not_fit_is_refused(
    curve: MetricsRecorder, monkeypatch: pytest.MonkeyPatch, micro_batch: int, hint: str
) -> None:
    model = initialised(START)
    limit_memory(monkeypatch, range(99))
    with pytest.raises(TaskRefused, match=hint):
        step(TRAJECTORY, cast("Mixture", Windows(set())), State(model, adamw(model, ADAMW), Position()), micro_batch, curve)
