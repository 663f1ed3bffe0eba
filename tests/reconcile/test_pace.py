"""The remaining fraction of a task and the remaining time of a plan, from measured attempts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.reconcile.observed import Observation, ObservedLease
from orchestrator.reconcile.pace import remaining_fraction, seconds_left, speeds
from orchestrator.reconcile.task_states import task_states
from tests.reconcile.decisions import LIMITS, NOW, PLAN, PREPARED, PRICE, lease

EVALUATIONS = [digest for digest, task in PLAN.tasks.items() if task.kind == TaskKind.EVALUATE]
TRAINS = [digest for digest, task in PLAN.tasks.items() if task.kind == TaskKind.TRAIN]
LATER = next(digest for digest in TRAINS if PLAN.tasks[digest].from_tokens)
"""A task that continues a trajectory."""


@given(st.integers(-1000, 10**6))
def test_remaining_fraction_is_that_of_the_own_tokens(reached: int) -> None:
    planned = PLAN.tasks[LATER]
    assert isinstance(planned.task, TrainTask)
    whole = planned.task.tokens - planned.from_tokens
    done = min(whole, max(0, reached - planned.from_tokens))
    assert remaining_fraction(planned, reached) == pytest.approx(1 - done / whole)


@pytest.mark.parametrize(("digest", "reached"), [(LATER, None), (EVALUATIONS[0], 512), (EVALUATIONS[0], None)])
def test_task_without_progress_and_evaluations_are_whole(digest: str, reached: int | None) -> None:
    assert remaining_fraction(PLAN.tasks[digest], reached) == 1.0


def test_only_training_that_took_time_has_a_speed() -> None:
    flops = dict.fromkeys(PLAN.tasks, 1e9)
    nothing = [(TRAINS[0], 0, 5.0), (TRAINS[0], 512, 0.0), (EVALUATIONS[0], 512, 5.0)]
    assert speeds(PLAN, flops, nothing) == {}
    measured = speeds(PLAN, flops, [*nothing, (TRAINS[0], 512, 2.0)])
    assert measured == pytest.approx(speeds(PLAN, flops, [(TRAINS[0], 512, 2.0)]))
    assert set(measured) == set(PLAN.shapes)


def test_remaining_evaluations_take_the_mean_time_of_the_finished_ones() -> None:
    """Unfinished attempts do not show the time of a whole task."""
    done = PREPARED | set(TRAINS) | set(EVALUATIONS[:2])
    leases: dict[str, ObservedLease] = {TRAINS[0]: replace(lease(), seconds=1.0, trained=512)}
    for digest, seconds in zip(EVALUATIONS[:3], (10.0, 20.0, 500.0), strict=True):
        leases[digest] = replace(lease(), seconds=seconds)
    tasks = task_states(PLAN, "mine", 1, Observation(done, leases=leases), NOW, LIMITS.stall)
    assert seconds_left(PLAN, tasks, leases, PRICE) == pytest.approx(15.0 * (len(EVALUATIONS) - 2))
