"""Results do not depend on stops, kills or the attempts that train a trajectory."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from trainer.context import Outcome, Stopped

from orchestrator.store import addresses, checkpoints
from tests.trainer.training.training_runs import NEVER, STEP, Killed, TrainingRuns, after, assert_same, root


@pytest.mark.parametrize("stops", [(1,), (7,), (19,), (1, 1, 5)], ids=str)
def test_stopped_and_resumed_run_equals_uninterrupted_run(
    runs: TrainingRuns, stops: tuple[int, ...], uninterrupted: tuple[Outcome, list[Any]]
) -> None:
    task = runs.task(20)
    for steps in stops:
        with pytest.raises(Stopped, match=rf"saved at \d+ of {task.tokens} tokens"):
            runs.attempt(task, after(steps))
    outcome = runs.attempt(task)
    assert (outcome.from_tokens, outcome.tokens_lost) == (sum(stops) * STEP, 0)
    assert_same(runs, task, outcome, uninterrupted)


@pytest.mark.parametrize("checkpoint_seconds", [0, NEVER])
@pytest.mark.parametrize("kills", [(1,), (13,), (3, 9, 2)], ids=str)
def test_killed_and_resumed_run_equals_uninterrupted_run(
    runs: TrainingRuns, kills: tuple[int, ...], checkpoint_seconds: int, uninterrupted: tuple[Outcome, list[Any]]
) -> None:
    task = runs.task(20)
    for steps in kills:
        with pytest.raises(Killed):
            runs.attempt(task, after(steps, Killed), checkpoint_seconds=checkpoint_seconds)
    outcome = runs.attempt(task, checkpoint_seconds=checkpoint_seconds)
    assert outcome.from_tokens == (sum(kills) - len(kills)) * STEP * (checkpoint_seconds == 0)
    assert_same(runs, task, outcome, uninterrupted)


def test_stop_request_in_the_last_step_does_not_interrupt_the_task(runs: TrainingRuns) -> None:
    assert runs.attempt(runs.task(3), after(3)).results["steps"] == 3


def test_longer_horizon_trains_only_the_remaining_steps(runs: TrainingRuns, uninterrupted: tuple[Outcome, list[Any]]) -> None:
    shorter, longer = runs.task(12), runs.task(20)
    assert root(shorter) == root(longer)
    runs.attempt(shorter)
    outcome = runs.attempt(longer)
    assert (outcome.from_tokens, outcome.tokens_lost) == (12 * STEP, 0)
    assert_same(runs, longer, outcome, uninterrupted)
    assert checkpoints.list_checkpoints(runs.store, root(longer)) == [12 * STEP, 20 * STEP]


def test_shorter_horizon_does_not_resume_from_a_later_checkpoint(runs: TrainingRuns) -> None:
    runs.attempt(runs.task(8))
    outcome = runs.attempt(runs.task(5))
    assert (outcome.from_tokens, outcome.results["tokens"]) == (0, 5 * STEP)


def test_horizon_with_a_checkpoint_is_only_verified(runs: TrainingRuns) -> None:
    task = runs.task(6)
    first, again = runs.attempt(task), runs.attempt(task)
    assert again == replace(first, from_tokens=6 * STEP)
    objects = runs.store.objects
    assert not list(objects.list(addresses.attempt_key(root(task), 2)))


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], (0, 0)),
        ([(2, Stopped)], (2, 0)),
        ([(2, Stopped), (5, Killed)], (2, 5)),
        ([(5, Killed), (2, Stopped)], (2, 0)),  # the second attempt trained the tokens that the first one lost
        ([(12, None)], (0, 9)),  # a longer horizon whose only checkpoint is too late
    ],
    ids=str,
)
def test_lost_tokens_are_counted_once(runs: TrainingRuns, before: list[tuple[int, Any]], expected: tuple[int, int]) -> None:
    """The clock advances by ten seconds per call, so that every step renews the lease."""
    ticks = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * tick) for tick in count())
    slow_runs = replace(runs, store=replace(runs.store, clock=lambda: next(ticks)))
    for steps, end in before:
        if end is None:
            slow_runs.attempt(runs.task(steps))
            continue
        with pytest.raises(end):
            slow_runs.attempt(runs.task(9), after(steps, True if end is Stopped else Killed))
    outcome = slow_runs.attempt(runs.task(9))
    assert (outcome.from_tokens, outcome.tokens_lost) == (expected[0] * STEP, expected[1] * STEP)
