"""What a decision lets a study spend, and how long it says that what is left takes."""

from dataclasses import replace
from datetime import timedelta
from math import ceil

import pytest

from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning.estimate import cost
from orchestrator.reconcile import Limits, Stop, reconcile
from orchestrator.reconcile.observe import Observed, task_states
from orchestrator.reconcile.pace import seconds_left
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
    flight,
    lease,
    pod,
    submitted,
    trunk,
)


def budget(gpu_seconds: float) -> Limits:
    return replace(LIMITS, budget_gpu_hours=gpu_seconds / 3600)


def test_what_does_not_fit_the_budget_is_held_in_the_order_of_the_plan_and_named() -> None:
    trunks = submitted(decided(Observed(PREPARED)))
    two = estimate_of(trunks[0]) + estimate_of(trunks[1])
    decision = decided(Observed(PREPARED), limits=budget(two * 1.0001))
    assert submitted(decision) == trunks[:2]
    assert decision.status["phase"] == "Running", "what is submitted with this decision is under way"
    exhausted = condition(decision, "BudgetExhausted")
    assert exhausted["status"] == "True"
    assert trunks[2].label in exhausted["message"]
    assert "BudgetHold" in [event.reason for event in decision.events]
    assert submitted(decided(Observed(PREPARED), limits=budget(1e9))) == trunks


def test_what_is_in_flight_or_spent_counts_against_the_budget() -> None:
    trunks = submitted(decided(Observed(PREPARED)))
    enough = budget(sum(map(estimate_of, trunks)) * 1.0001)
    assert len(submitted(decided(Observed(PREPARED, (flight(trunks[0]),)), limits=enough))) == len(trunks) - 1
    assert len(submitted(decided(Observed(PREPARED, spent=estimate_of(trunks[-1])), limits=enough))) < len(trunks)


def test_other_studies_count_against_the_cap_of_the_namespace() -> None:
    wanted = sum(map(estimate_of, submitted(decided(Observed(PREPARED)))))
    capped = replace(LIMITS, namespace_gpu_hours=wanted * 1.5 / 3600)
    assert len(submitted(decided(Observed(PREPARED), limits=capped))) == len(PLAN.cells)
    assert len(submitted(decided(Observed(PREPARED, others=wanted), limits=capped))) < len(PLAN.cells)


def test_an_overdrawn_budget_stops_what_runs() -> None:
    unit = trunk()
    observed = Observed(PREPARED, (flight(unit),), (pod(unit),), {unit.tasks[0]: lease(seconds=10.0)}, spent=10.0)
    decision = decided(observed, limits=budget(9.0))
    assert decision.actions == (Stop(workflow_name(unit, 1), "the budget is spent"),)
    assert condition(decision, "BudgetExhausted")["reason"] == "Overdrawn"


def test_an_overrun_of_an_estimate_is_told() -> None:
    unit = trunk()
    observed = Observed(PREPARED, (flight(unit),), (pod(unit),), {unit.tasks[0]: lease(seconds=1e6)}, spent=1e6)
    assert "Overrun" in [event.reason for event in decided(observed).events]


def test_what_is_left_takes_as_long_as_it_goes_now_whatever_it_runs_on() -> None:
    """Half of the trunk took a minute, on no GPU: its other half takes another, its leaf and cooldown as long a token."""
    cell = PLAN.cell("scratch/0.09M/c50/s1")
    plan = replace(PLAN, cells=(cell,), tasks={digest: PLAN.tasks[digest] for digest in (*PREPARED, *cell.tasks)})
    first, *rest = [digest for digest in cell.tasks if PLAN.tasks[digest].kind == TaskKind.TRAIN]
    unit = trunk(cell.name)
    half = whole(first) // 2
    at_work = replace(lease(), seconds=60.0, trained=half, reached=half)
    observed = Observed(PREPARED, (flight(unit),), (pod(unit),), {first: at_work})
    minutes = (whole(first) - half + sum(map(whole, rest))) / half
    assert decided(observed, plan=plan).status["eta"] == f"0h{ceil(minutes):02d}m"
    unmeasured = replace(observed, leases={first: replace(at_work, trained=0)})
    assert decided(unmeasured, plan=plan).status["eta"] == "", "nobody knows how fast it goes"


def test_a_size_that_nobody_has_trained_goes_as_fast_in_flops_as_the_others() -> None:
    unit = trunk("scratch/0.03M/c50/s1")
    (first,) = unit.tasks
    leases = {first: replace(lease(), seconds=1.0, trained=whole(first))}
    tasks = task_states(PLAN, "mine", 1, Observed(PREPARED | {first}, leases=leases), NOW, timedelta(hours=1))
    found = seconds_left(PLAN, tasks, leases, PRICE)
    flops = {digest: cost(PLAN, PLAN.tasks[digest], PRICE).flops for digest, task in PLAN.tasks.items() if task.kind == TaskKind.TRAIN}
    assert found == pytest.approx((sum(flops.values()) - flops[first]) / flops[first])


def whole(digest: str) -> int:
    """Tokens that a train task brings its trajectory on."""
    planned = PLAN.tasks[digest]
    assert isinstance(planned.task, TrainTask)
    return planned.task.tokens - planned.from_tokens


def test_what_was_spent_before_a_stop_is_not_charged_again() -> None:
    unit = trunk()
    price = estimate_of(unit)
    stopped = Observed(PREPARED, leases={unit.tasks[0]: lease(75, seconds=0.8 * price)}, spent=0.8 * price)
    decision = reconcile(FACTS, PLAN, (unit,), stopped, Limits(PRICE, budget_gpu_hours=1.1 * price / 3600), NOW)
    assert submitted(decision) == [unit]


def test_what_others_may_still_spend_holds_back_and_stops_nothing() -> None:
    unit = trunk()
    price = estimate_of(unit)
    capped = Limits(PRICE, namespace_gpu_hours=price / 3600)
    running = Observed(PREPARED, (flight(unit),), (pod(unit),), others_promised=2 * price)
    assert not decided(running, limits=capped).actions
    assert not submitted(decided(Observed(PREPARED, others_promised=price), limits=capped))


def test_what_is_promised_is_what_flies_and_what_is_submitted_less_what_it_has_cost() -> None:
    unit = trunk()
    (digest,) = unit.tasks
    begun = Observed(PREPARED, (flight(unit),), (pod(unit),), {digest: lease(seconds=0.5 * estimate_of(unit))}, spent=0.0)
    decision = decided(begun)
    assert decision.promised == pytest.approx(0.5 * estimate_of(unit) + sum(map(estimate_of, submitted(decision))))
