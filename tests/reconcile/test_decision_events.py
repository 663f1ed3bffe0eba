"""Events of a decision: each is sent once, when what it reports begins or grows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.reconcile import Decision, RecordFailure
from orchestrator.reconcile.observed import Observation
from tests.reconcile.decisions import FACTS, LIMITS, PLAN, PREPARED, UNITS, decided, lease, pod, trunk, workflow

FAILED_CELL = PLAN.cell("scratch/0.09M/c50/s1")


def reasons(decision: Decision, reason: str) -> list[str]:
    return [event.message for event in decision.events if event.reason == reason]


def again(observed: Observation, status: Mapping[str, Any], budget: float | None = None) -> Decision:
    """Decide once more, after `status` was written."""
    return decided(observed, replace(FACTS, status=status), replace(LIMITS, budget_gpu_hours=budget))


def test_hold_is_announced_when_it_begins() -> None:
    waiting = Observation(PREPARED)
    first = again(waiting, {}, 1e-9)
    assert len(reasons(first, "BudgetHold")) == 1
    assert not reasons(again(waiting, first.status, 1e-9), "BudgetHold")
    released = again(waiting, first.status)
    assert not reasons(released, "BudgetHold")
    assert len(reasons(again(waiting, released.status, 1e-9), "BudgetHold")) == 1


def test_failures_are_announced_when_their_number_grows() -> None:
    one, two = ({digest: lease(code=78) for unit in UNITS[3 : 3 + number] for digest in unit.tasks[:1]} for number in (1, 2))
    first = again(Observation(PREPARED, leases=one), {})
    assert len(reasons(first, "CellFailed")) == 1
    assert not reasons(again(Observation(PREPARED, leases=one), first.status), "CellFailed")
    second = again(Observation(PREPARED, leases=two), first.status)
    assert len(reasons(second, "CellFailed")) == 2
    assert not reasons(again(Observation(PREPARED, leases=one), second.status), "CellFailed"), "one was retried with success"


def test_failed_study_sends_one_warning() -> None:
    unit = trunk(FAILED_CELL.name)
    others = frozenset(PLAN.tasks) - set(FAILED_CELL.tasks)
    observed = Observation(others, leases={unit.tasks[0]: lease(code=78)})
    first = again(observed, {})
    (event,) = (event for event in first.events if event.reason == "Failed")
    assert (event.is_warning, event.message) == (True, "1 of 4 cells failed and no other task can run")
    assert not reasons(again(observed, first.status), "Failed")


@pytest.mark.parametrize(
    ("code", "study", "run_number", "records"),
    [(None, "mine", 1, True), (78, "mine", 1, False), (1, "mine", 1, False), (None, "theirs", 1, False), (None, "mine", 2, False)],
)
def test_only_an_end_that_no_process_recorded_is_recorded(code: int | None, study: str, run_number: int, records: bool) -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    killed = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: "OOMKilled"})
    last = replace(lease(code=code, run=run_number), study=study, number=4, is_live=False)
    found = [
        action
        for action in decided(Observation(PREPARED, (killed,), leases={unit.tasks[0]: last})).actions
        if isinstance(action, RecordFailure)
    ]
    assert found == ([RecordFailure(unit.tasks[0], 4, "OOMKilled")] if records else [])


@pytest.mark.parametrize("disruption", ["", "PreemptionByScheduler: a pod of higher priority"])
def test_only_disrupted_pods_send_an_event(disruption: str) -> None:
    unit = trunk()
    decision = decided(Observation(PREPARED, (workflow(unit),), (pod(unit, preempted=disruption),)))
    assert len(reasons(decision, "Preempted")) == bool(disruption)


def test_stalled_task_sends_a_warning_that_names_it() -> None:
    unit = trunk()
    hung = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease(live=False, minutes=31)})
    (event,) = (event for event in decided(hung).events if event.reason == "Stalled")
    assert (event.is_warning, event.message.startswith(f"{unit.label}: no step since")) == (True, True)
