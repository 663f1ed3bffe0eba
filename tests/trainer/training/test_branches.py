"""Trajectories that start from the state of another: optimizer, schedule and fetched files."""

import pytest

from orchestrator.contract.identity import digest_of
from orchestrator.contract.tasks import FromState, Schedule
from orchestrator.errors import KeyMissing
from orchestrator.store.memory import InMemoryObjects
from tests.trainer.training.training_runs import BATCH, STEP, TrainingRuns, hashes


def test_branch_without_changes_equals_the_trunk(runs: TrainingRuns) -> None:
    """A kept optimizer keeps weights, moments and update count, and the data continues where the trunk stopped."""
    trunk = runs.attempt(runs.task(12))
    runs.attempt(runs.task(8))
    stable = runs.trajectory()
    start = FromState(digest_of(stable.identity()), 8 * STEP, keep_optimizer=True)
    branch = runs.task(4, start=start, already_read=((runs.source, 8 * BATCH),), schedule=Schedule("constant", 0, "0.01"))
    outcome = runs.attempt(branch)
    assert hashes(outcome) == hashes(trunk)
    assert runs.losses(branch) == runs.losses(runs.task(12))[8:]


def test_fresh_optimizer_counts_updates_from_zero(runs: TrainingRuns) -> None:
    parent = runs.attempt(runs.task(8))
    fresh, kept = (
        runs.attempt(runs.task(2, start=FromState(digest_of(runs.trajectory().identity()), 8 * STEP, keep_optimizer=keep)))
        for keep in (False, True)
    )
    assert [runs.updates(outcome) for outcome in (parent, fresh, kept)] == [8, 2, 10]
    assert hashes(fresh)["model.safetensors"] != hashes(kept)["model.safetensors"]


@pytest.mark.parametrize("keep", [False, True])
def test_moments_are_fetched_only_to_continue_the_optimizer(runs: TrainingRuns, keep: bool) -> None:
    """Neither the export check nor a start with a fresh optimizer reads the moments."""
    runs.attempt(runs.task(2))
    assert fetched(runs, "optimizer.safetensors") == []
    runs.attempt(runs.task(2, start=FromState(digest_of(runs.trajectory().identity()), 2 * STEP, keep_optimizer=keep)))
    assert len(fetched(runs, "optimizer.safetensors")) == keep


def fetched(runs: TrainingRuns, name: str) -> list[str]:
    assert isinstance(runs.store.objects, InMemoryObjects)
    return [key for operation, key in runs.store.objects.log if operation == "fetch" and key.endswith(name)]


def test_cooldown_decays_linearly_to_the_final_rate(runs: TrainingRuns) -> None:
    runs.attempt(runs.task(8))
    start = FromState(digest_of(runs.trajectory().identity()), 8 * STEP, keep_optimizer=True)
    leaf = runs.task(4, start=start, schedule=Schedule("linear", 0, "0.01", "0", 4 * STEP))
    runs.attempt(leaf)
    rates = [value for _, _, name, value in runs.metric_rows(leaf) if name == "learning_rate"]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_untrained_start_raises_key_missing(runs: TrainingRuns) -> None:
    with pytest.raises(KeyMissing, match=f"trajectories/{'a' * 64}/checkpoints/{STEP}"):
        runs.attempt(runs.task(4, start=FromState("a" * 64, STEP, keep_optimizer=True)))
