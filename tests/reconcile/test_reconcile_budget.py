"""Budget checks and remaining time of a decision."""

from dataclasses import replace
from datetime import timedelta
from math import ceil

import pytest

from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning.estimate import cost
from orchestrator.reconcile import Limits, Stop, reconcile
from orchestrator.reconcile.observed import Observation
from orchestrator.reconcile.pace import seconds_left
from orchestrator.reconcile.task_states import task_states
from orchestrator.workflow import workflow_name
from tests.reconcile.decisions import (
    FACTS,
    LIMITS,
    NOW,
    PLAN,
    PREPARED,
    PRICE,
    condition,
    decided,
    estimate_of,
    lease,
    pod,
    submitted,
    trunk,
    workflow,
)


def budget(gpu_seconds: float) -> Limits:
    return replace(LIMITS, budget_gpu_hours=gpu_seconds / 3600)


def test_units_beyond_the_budget_are_held_in_plan_order_and_named() -> None:
    trunks = submitted(decided(Observation(PREPARED)))
    two = estimate_of(trunks[0]) + estimate_of(trunks[1])
    decision = decided(Observation(PREPARED), limits=budget(two * 1.0001))
    assert submitted(decision) == trunks[:2]
    assert decision.status["phase"] == "Running", "the units submitted by this decision count as running"
    exhausted = condition(decision, "BudgetExhausted")
    assert exhausted["status"] == "True"
    assert trunks[2].label in exhausted["message"]
    assert "BudgetHold" in [event.reason for event in decision.events]
    assert submitted(decided(Observation(PREPARED), limits=budget(1e9))) == trunks


def test_in_flight_and_spent_cost_count_against_the_budget() -> None:
    trunks = submitted(decided(Observation(PREPARED)))
    enough = budget(sum(map(estimate_of, trunks)) * 1.0001)
    assert len(submitted(decided(Observation(PREPARED, (workflow(trunks[0]),)), limits=enough))) == len(trunks) - 1
    assert len(submitted(decided(Observation(PREPARED, spent=estimate_of(trunks[-1])), limits=enough))) < len(trunks)


def test_other_studies_count_against_the_namespace_cap() -> None:
    wanted = sum(map(estimate_of, submitted(decided(Observation(PREPARED)))))
    capped = replace(LIMITS, namespace_gpu_hours=wanted * 1.5 / 3600)
    assert len(submitted(decided(Observation(PREPARED), limits=capped))) == len(PLAN.cells)
    assert len(submitted(decided(Observation(PREPARED, namespace_spent=wanted), limits=capped))) < len(PLAN.cells)


def test_overdrawn_budget_stops_running_workflows() -> None:
    unit = trunk()
    observed = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease(seconds=10.0)}, spent=10.0)
    decision = decided(observed, limits=budget(9.0))
    assert decision.actions == (Stop(workflow_name(unit, 1), "the budget is spent"),)
    assert condition(decision, "BudgetExhausted")["reason"] == "Overdrawn"


def test_overrun_of_an_estimate_sends_an_event() -> None:
    unit = trunk()
    observed = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease(seconds=1e6)}, spent=1e6)
    assert "Overrun" in [event.reason for event in decided(observed).events]


def test_eta_uses_the_measured_speed() -> None:
    """Half of the trunk took a minute without a GPU: all remaining tokens take the same time per token."""
    cell = PLAN.cell("scratch/0.09M/c50/s1")
    plan = replace(PLAN, cells=(cell,), tasks={digest: PLAN.tasks[digest] for digest in (*PREPARED, *cell.tasks)})
    first, *rest = [digest for digest in cell.tasks if PLAN.tasks[digest].kind == TaskKind.TRAIN]
    unit = trunk(cell.name)
    half = whole(first) // 2
    at_work = replace(lease(), seconds=60.0, trained=half, reached=half)
    observed = Observation(PREPARED, (workflow(unit),), (pod(unit),), {first: at_work})
    minutes = (whole(first) - half + sum(map(whole, rest))) / half
    assert decided(observed, plan=plan).status["eta"] == f"0h{ceil(minutes):02d}m"
    unmeasured = replace(observed, leases={first: replace(at_work, trained=0)})
    assert decided(unmeasured, plan=plan).status["eta"] == "", "no speed was measured"


def test_unmeasured_size_uses_the_mean_speed_in_flops() -> None:
    unit = trunk("scratch/0.03M/c50/s1")
    (first,) = unit.tasks
    leases = {first: replace(lease(), seconds=1.0, trained=whole(first))}
    tasks = task_states(PLAN, "mine", 1, Observation(PREPARED | {first}, leases=leases), NOW, timedelta(hours=1))
    found = seconds_left(PLAN, tasks, leases, PRICE)
    flops = {digest: cost(PLAN, PLAN.tasks[digest], PRICE).flops for digest, task in PLAN.tasks.items() if task.kind == TaskKind.TRAIN}
    assert found == pytest.approx((sum(flops.values()) - flops[first]) / flops[first])


def whole(digest: str) -> int:
    """Return the tokens that a training task trains."""
    planned = PLAN.tasks[digest]
    assert isinstance(planned.task, TrainTask)
    return planned.task.tokens - planned.from_tokens


def test_cost_before_a_stop_is_not_charged_again() -> None:
    unit = trunk()
    price = estimate_of(unit)
    stopped = Observation(PREPARED, leases={unit.tasks[0]: lease(75, seconds=0.8 * price)}, spent=0.8 * price)
    decision = reconcile(FACTS, PLAN, (unit,), stopped, Limits(PRICE, budget_gpu_hours=1.1 * price / 3600), NOW)
    assert submitted(decision) == [unit]


def test_reserved_cost_of_other_studies_holds_submissions_but_stops_nothing() -> None:
    unit = trunk()
    price = estimate_of(unit)
    capped = Limits(PRICE, namespace_gpu_hours=price / 3600)
    running = Observation(PREPARED, (workflow(unit),), (pod(unit),), others_promised=2 * price)
    assert not decided(running, limits=capped).actions
    assert not submitted(decided(Observation(PREPARED, others_promised=price), limits=capped))


def test_promised_cost_is_the_remaining_cost_of_running_and_submitted_tasks() -> None:
    unit = trunk()
    (digest,) = unit.tasks
    begun = Observation(PREPARED, (workflow(unit),), (pod(unit),), {digest: lease(seconds=0.5 * estimate_of(unit))}, spent=0.0)
    decision = decided(begun)
    assert decision.promised == pytest.approx(0.5 * estimate_of(unit) + sum(map(estimate_of, submitted(decision))))
