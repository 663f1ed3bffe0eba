"""Conditions and figures in the status of a study."""

from dataclasses import replace
from math import ceil

import pytest

from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.reconcile.observed import Observation
from orchestrator.reconcile.pace import seconds_left
from orchestrator.reconcile.status import FAILED_CELLS, condition_of
from tests.reconcile.decisions import PLAN, PREPARED, PRICE, condition, decided, lease, plan_at, pod, trunk, workflow


def test_study_with_a_plan_is_accepted_and_planned() -> None:
    decision = decided(Observation(PREPARED))
    assert {kind: condition(decision, kind)["status"] for kind in ("Accepted", "Planned", "Succeeded", "Degraded")} == {
        "Accepted": "True", "Planned": "True", "Succeeded": "False", "Degraded": "False",
    }  # fmt: skip


def test_message_names_only_the_reasons_of_queued_tasks() -> None:
    """The blocked tasks behind a failure have reasons too."""
    unit, failed = trunk("scratch/0.03M/c0/s1"), trunk()
    waiting = workflow(unit, reasons={unit.tasks[0][:DIGEST_LABEL_LENGTH]: "no quota"})
    decision = decided(Observation(PREPARED, (waiting,), leases={failed.tasks[0]: lease(78)}))
    assert condition(decision, "Progressing")["message"].endswith("; 1 wait: no quota")


def test_status_lists_a_bounded_number_of_failed_cells() -> None:
    """The object of a study with thousands of cells must stay below the size that the API accepts."""
    plan = plan_at(tuple(range(0, 2 * FAILED_CELLS, 2)))
    failed = {digest: lease(78) for cell in plan.cells for digest in cell.stages[0].trains[:1]}
    status = decided(Observation(PREPARED, leases=failed), plan=plan).status
    assert status["counts"]["cellsFailed"] > FAILED_CELLS
    assert len(status["failedCells"]) == FAILED_CELLS


@pytest.mark.parametrize(("before", "since"), [("True", "earlier"), ("False", "now")])
def test_transition_time_is_that_of_the_last_change(before: str, since: str) -> None:
    known = {"type": "Degraded", "status": before, "lastTransitionTime": "earlier"}
    assert condition_of("Degraded", True, "Stalled", "", 1, known, "now")["lastTransitionTime"] == since


@pytest.mark.parametrize("seconds", [1.0, 60.0, 7200.0])
def test_eta_is_in_hours_and_minutes_rounded_up(seconds: float) -> None:
    """Half of one trunk took `seconds`; the rest of the plan takes as long per FLOP, one task after the other."""
    unit = trunk()
    digest = unit.tasks[0]
    planned = PLAN.tasks[digest]
    assert isinstance(planned.task, TrainTask)
    half = (planned.task.tokens - planned.from_tokens) // 2
    leases = {digest: replace(lease(), seconds=seconds, trained=half, reached=planned.from_tokens + half)}
    decision = decided(Observation(PREPARED, (workflow(unit),), (pod(unit),), leases))
    left = seconds_left(PLAN, decision.tasks, leases, PRICE)
    assert left is not None
    hours, minutes = divmod(ceil(left / 60), 60)
    assert decision.status["eta"] == f"{hours}h{minutes:02d}m"
