"""Admission of Workflows at the exact limit of a budget or a namespace's cap."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.contract.tasks import TrainTask
from orchestrator.planning.estimate import Price, cost
from orchestrator.reconcile import Limits, reconcile
from orchestrator.reconcile.observed import Observation
from tests.reconcile.decisions import FACTS, NOW, PLAN, PREPARED, UNITS, decided, lease, pod, submitted, trunk, workflow

# Powers of two times 3600: the cost of a task is exact in GPU-seconds and in GPU-hours
EXACT = Price("h100", 0.5, None, {"0.03M": 3600 / 2**20, "0.09M": 3600 / 2**10})
SMALL, LARGE = trunk("scratch/0.03M/c0/s1"), trunk("scratch/0.09M/c50/s1")


def hours(digest: str, price: Price = EXACT) -> float:
    """Return the GPU-hours of a training task at `price`."""
    planned = PLAN.tasks[digest]
    assert isinstance(planned.task, TrainTask)
    return (planned.task.tokens - planned.from_tokens) * price.measured[planned.size] / 3600


TRUNKS = submitted(decided(Observation(PREPARED)))
WHOLE = sum(hours(unit.tasks[0]) for unit in TRUNKS)


def budget(gpu_hours: float) -> Limits:
    return Limits(EXACT, budget_gpu_hours=gpu_hours)


def namespace_cap(gpu_hours: float) -> Limits:
    return Limits(EXACT, namespace_gpu_hours=gpu_hours)


@pytest.mark.parametrize("limited", [budget, namespace_cap])
def test_workflow_that_exactly_fits_is_submitted_and_one_gpu_second_more_is_not(limited: Callable[[float], Limits]) -> None:
    used = 3600.0
    observed = Observation(PREPARED, spent=used, namespace_spent=used)
    exact = limited(WHOLE + 1)
    assert submitted(decided(observed, limits=exact)) == TRUNKS
    more = replace(observed, spent=used + 1, namespace_spent=used + 1)
    assert submitted(decided(more, limits=exact)) == TRUNKS[:-1]


@pytest.mark.parametrize("limited", [budget, namespace_cap])
def test_running_workflow_continues_until_more_than_the_limit_is_spent(limited: Callable[[float], Limits]) -> None:
    running = Observation(PREPARED, (workflow(SMALL),), (pod(SMALL),), spent=3600.0, namespace_spent=3600.0)
    assert not decided(running, limits=limited(1.0)).actions
    assert decided(replace(running, spent=3600.5, namespace_spent=3600.5), limits=limited(1.0)).actions


def test_cheaper_workflow_does_not_overtake_one_that_is_held() -> None:
    """The first units of the plan cost more than the later ones, which would fit the budget by themselves."""
    reverse = replace(EXACT, measured={"0.03M": EXACT.measured["0.09M"], "0.09M": EXACT.measured["0.03M"]})
    first, *_, last = TRUNKS
    two_of_the_last = hours(last.tasks[0], reverse) * 2
    assert hours(first.tasks[0], reverse) > two_of_the_last
    decision = decided(Observation(PREPARED), limits=Limits(reverse, budget_gpu_hours=two_of_the_last))
    assert not submitted(decision)
    assert f"{len(TRUNKS)} Workflows do not fit" in next(event.message for event in decision.events if event.reason == "BudgetHold")


@pytest.mark.parametrize("over", [0, 1, 3600, 10**6])
def test_task_beyond_its_estimate_does_not_increase_the_free_budget(over: int) -> None:
    """The promised cost of such a task is 0 and never negative, so it does not admit further Workflows."""
    running = hours(LARGE.tasks[0]) * 3600 + over
    observed = Observation(PREPARED, (workflow(LARGE),), (pod(LARGE),), {LARGE.tasks[0]: lease(seconds=running)}, spent=running)
    others = WHOLE - hours(LARGE.tasks[0])
    half_a_second = 0.5 / 3600
    enough = decided(observed, limits=budget(running / 3600 + others + half_a_second))
    assert len(submitted(enough)) == len(TRUNKS) - 1
    assert enough.promised == others * 3600
    too_little = decided(observed, limits=budget(running / 3600 + others - half_a_second))
    assert len(submitted(too_little)) == len(TRUNKS) - 2


def test_overspent_task_does_not_lower_the_estimates_of_later_tasks() -> None:
    """A stopped task exceeded its estimate; the estimates of the later tasks of its Workflow still count in full."""
    done = PREPARED | set(LARGE.tasks)
    unit = next(unit for unit in UNITS if unit.size == "0.09M" and len(unit.tasks) > 2 and set(unit.needs) <= done)
    overspent = unit.tasks[0]
    later = sum(cost(PLAN, PLAN.tasks[digest], EXACT).gpu_seconds for digest in unit.tasks[1:])
    spent = hours(overspent) * 3600 * 3
    stopped = Observation(done, leases={overspent: lease(75, seconds=spent)}, spent=spent)
    for extra, admitted in ((0.5, [unit]), (-0.5, [])):
        limits = Limits(EXACT, budget_gpu_hours=(spent + later + extra) / 3600)
        assert submitted(reconcile(FACTS, PLAN, (unit,), stopped, limits, NOW)) == admitted


@pytest.mark.parametrize(("first", "places"), [(0, 3), (1, 2), (2, 1), (3, 0), (9, 0)])
def test_places_are_left_for_studies_that_have_waited_longer(first: int, places: int) -> None:
    decision = decided(Observation(PREPARED, others_first=first), limits=replace(Limits(EXACT), workflows_at_once=3))
    assert submitted(decision) == TRUNKS[:places]
    assert decision.queued == len(TRUNKS) - places


@pytest.mark.parametrize("at_once", [None, 10])
def test_one_decision_creates_at_most_the_given_number_of_workflows(at_once: int | None) -> None:
    limits = replace(Limits(EXACT), workflows_at_once=at_once, submit_at_once=2)
    assert submitted(decided(Observation(PREPARED), limits=limits)) == TRUNKS[:2]


def test_task_that_another_study_runs_is_not_promised_in_this_study() -> None:
    """The other study pays for it, so this study's budget admits all its other Workflows."""
    theirs = Observation(PREPARED, (workflow(LARGE, study="theirs"),), (pod(LARGE),))
    others = WHOLE - hours(LARGE.tasks[0])
    decision = decided(theirs, limits=budget(others))
    assert submitted(decision) == [unit for unit in TRUNKS if unit != LARGE]
    assert decision.promised == others * 3600
