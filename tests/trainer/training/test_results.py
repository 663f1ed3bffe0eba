"""Losses and token hash of a trajectory: recorded values, precision, micro-batches, invalid tasks."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import torch
from trainer.context import Outcome
from trainer.data.sources import open_mixture

from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.tasks import FromInitialisation, TrainTask
from orchestrator.errors import TaskRefused
from tests.trainer.training.training_runs import LENGTH, SHAPE, STEP, TrainingRuns

# Losses of the first ten steps of `TrainingRuns.trajectory` on one thread of an Intel Xeon (Sapphire Rapids, AVX-512), torch 2.13.0+cpu.
# Other processors and versions of torch add in another order, hence the tolerance of 1e-4. Any other reason to change them requires a new
# NUMERICS.
GOLDEN_LOSSES = [
    4.1709794998168945, 4.135709285736084, 4.108738422393799, 4.043852806091309, 4.0554399490356445,
    3.945424795150757, 3.898242712020874, 3.8396401405334473, 3.7272021770477295, 3.703320264816284,
]  # fmt: skip
GOLDEN_TOKEN_HASH = "dadb48169cfd2fd7f3e3aba06440eef84c249da88f36d1897e92c722c3f4e53c"


def test_losses_equal_the_recorded_ones(runs: TrainingRuns) -> None:
    task = runs.task(10)
    outcome = runs.attempt(task)
    assert runs.losses(task) == pytest.approx(GOLDEN_LOSSES, rel=1e-4)
    assert outcome.results["loss"] == pytest.approx(sum(GOLDEN_LOSSES) / 10, rel=1e-4)
    assert outcome.results["token_hash"] == GOLDEN_TOKEN_HASH, "the order of the data is exact on every machine"


def test_bf16_losses_are_close_to_fp32_losses(runs: TrainingRuns) -> None:
    exact, rounded = runs.task(6), runs.task(6, precision="bf16")
    one, other = runs.attempt(exact), runs.attempt(rounded)
    assert runs.losses(rounded) == pytest.approx(runs.losses(exact), rel=0.02)
    assert runs.losses(rounded) != runs.losses(exact)
    assert one.results["token_hash"] == other.results["token_hash"]


def test_micro_batches_change_losses_only_by_rounding(runs: TrainingRuns, uninterrupted: tuple[Outcome, list[Any]]) -> None:
    task = runs.task(20)
    outcome = runs.attempt(task, micro_batch=1)
    assert runs.losses(task) == pytest.approx([value for _, _, name, value in uninterrupted[1] if name == "loss"], rel=1e-4)
    assert outcome.results["token_hash"] == uninterrupted[0].results["token_hash"]


def test_token_hash_is_a_hash_chain_over_the_ids_of_every_step(runs: TrainingRuns) -> None:
    task = runs.task(3)
    mixture = open_mixture(runs.store, task.trajectory, runs.cache)
    chained = bytes(32)
    for number in range(3):
        chained = sha256(chained + mixture.batch(number).ids.astype("<i8").tobytes()).digest()
    assert runs.attempt(task).results["token_hash"] == chained.hex()


REFUSED = {
    "other numerics": ({"numerics": NUMERICS + 1}, f"requires NUMERICS {NUMERICS + 1}; this trainer implements {NUMERICS}"),
    "unknown precision": ({"precision": "fp8"}, "unknown precision 'fp8'; this trainer supports fp32, bf16"),
    "half a step": ({"batch": 3}, rf"{2 * STEP} tokens are not a whole number of steps of {3 * LENGTH} tokens"),
    "too small a vocabulary": (
        {"start": FromInitialisation(replace(SHAPE, vocabulary=63), 1, "0.06")}, "the mixture's tokenizer has 64 ids, but the model has 63",
    ),
    "windows longer than the source": ({"sequence_length": 64_000, "batch": 1}, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_tasks_are_refused(runs: TrainingRuns, changes: dict[str, Any], message: str) -> None:
    tokens = changes.get("sequence_length", 2 * STEP)
    with pytest.raises(TaskRefused, match=message):
        runs.attempt(TrainTask(runs.trajectory(**changes), tokens))


def test_number_of_threads_is_restored_after_a_task(runs: TrainingRuns) -> None:
    before, during = torch.get_num_threads(), set[int]()

    def stop() -> bool:
        during.add(torch.get_num_threads())
        return False

    runs.attempt(runs.task(2), stop, threads=before + 1)
    assert during == {before + 1}
    assert torch.get_num_threads() == before


def test_only_prepared_tokens_use_the_shared_folder(runs: TrainingRuns, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    outcome = runs.attempt(runs.task(2), shards=str(shared))
    fetched = {path.name for path in shared.rglob("*") if path.is_file()}
    assert fetched
    assert not fetched & {artifact.sha256 for artifact in outcome.artifacts.values()}
    assert not fetched & {path.name for path in runs.cache.rglob("*") if path.is_file()}
