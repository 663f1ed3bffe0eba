"""Failed tasks: reasons, dependent tasks, retries, and the failures of other studies."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.reconcile import RecordFailure
from orchestrator.reconcile.observed import Observation
from orchestrator.reconcile.task_states import TaskState, task_states
from tests.reconcile.decisions import (
    FACTS,
    NOW,
    PLAN,
    PREPARED,
    UNITS,
    condition,
    decided,
    lease,
    pod,
    submitted,
    trunk,
    workflow,
)


def test_refused_task_stays_failed_until_retried() -> None:
    unit = trunk()
    gone = workflow(unit, phase="Failed", failed=frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]}))
    observed = Observation(PREPARED, (gone,), leases={unit.tasks[0]: lease(78)})
    decision = decided(observed)
    assert unit not in submitted(decision)
    assert condition(decision, "Degraded")["status"] == "True"
    assert decision.status["failedCells"] == [
        {"name": "scratch/0.09M/c50/s1", "reason": "scratch/0.09M/c50/s1 pretrain (stable): it said no"}
    ]
    assert [event.reason for event in decision.events if event.is_warning] == ["CellFailed"]
    assert unit in submitted(decided(observed, replace(FACTS, run_number=2)))


FINAL_MESSAGES = ["OOMKilled (exit code 137)", 'pods "x" is forbidden: exceeded quota', "ErrImagePull: no such image"]


@pytest.mark.parametrize("message", FINAL_MESSAGES)
def test_task_without_retries_left_fails_with_the_reason_of_argo(message: str) -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    gone = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: message})
    decision = decided(Observation(PREPARED, (gone,)))
    assert unit not in submitted(decision)
    assert message in decision.status["failedCells"][0]["reason"]


def test_failure_blocks_only_dependent_tasks() -> None:
    unit = trunk()
    decision = decided(Observation(PREPARED, leases={unit.tasks[0]: lease(78)}))
    assert len(submitted(decision)) == len(PLAN.cells) - 1
    assert decision.status["counts"]["cellsFailed"] == 1
    everything_else = frozenset(PLAN.tasks) - {
        digest for stage in PLAN.cell("scratch/0.09M/c50/s1").stages for digest in (*stage.trains, *(e.digest for e in stage.evaluations))
    }
    assert decided(Observation(everything_else, leases={unit.tasks[0]: lease(78)})).status["phase"] == "Failed"


def test_task_without_retries_left_is_failed_while_its_workflow_runs() -> None:
    unit = trunk()
    given_up = frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]})
    observed = Observation(PREPARED, (workflow(unit, failed=given_up, reasons={next(iter(given_up)): "OOMKilled"}),))
    states = task_states(PLAN, "mine", 1, observed, NOW, timedelta(hours=1))
    assert (states[unit.tasks[0]].state, states[unit.tasks[0]].reason) == (TaskState.FAILED, "OOMKilled")
    again = task_states(PLAN, "mine", 2, observed, NOW, timedelta(hours=1))
    assert again[unit.tasks[0]].state == TaskState.READY, "the Workflow belongs to an earlier run than the requested one"


@pytest.mark.parametrize(("code", "run", "says"), [(None, 1, True), (78, 1, False), (None, 0, False)])
def test_permanent_failure_of_a_killed_attempt_is_recorded_in_its_lease_once(code: int | None, run: int, says: bool) -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    killed = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: "OOMKilled"})
    last = replace(lease(code=code, run=run), number=4, is_live=False)
    actions = decided(Observation(PREPARED, (killed,), leases={unit.tasks[0]: last})).actions
    assert (RecordFailure(unit.tasks[0], 4, "OOMKilled") in actions) == says


def test_killed_task_without_retries_left_is_failed_before_its_lease_expires() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    gone = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: "main: OOMKilled (exit code 137)"})
    observed = Observation(PREPARED, (gone,), (pod(unit, phase="Failed"),), {unit.tasks[0]: lease()})
    decision = decided(observed)
    assert "OOMKilled" in decision.status["failedCells"][0]["reason"]
    still_there = replace(observed, pods=(pod(unit),))
    assert not decided(still_there).status["failedCells"]


def test_failure_in_another_study_does_not_fail_this_study() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    theirs = workflow(unit, study="theirs", phase="Failed", failed=frozenset({short}), reasons={short: "OOMKilled"}, run_number=9)
    ours = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: "ImagePullBackOff"})
    assert decided(Observation(PREPARED, (theirs,))).tasks[unit.tasks[0]].state == TaskState.READY
    for flights in ((theirs, ours), (ours, theirs)):
        assert decided(Observation(PREPARED, flights)).tasks[unit.tasks[0]].reason == "ImagePullBackOff"
    known = decided(Observation(PREPARED, (theirs,), final_failures={unit.tasks[0]: "ImagePullBackOff"}))
    assert known.tasks[unit.tasks[0]].state == TaskState.FAILED


def test_failure_events_are_limited() -> None:
    failed = {digest: lease(code=78) for digest in [task for unit in UNITS for task in unit.tasks][:12]}
    messages = [event.message for event in decided(Observation(frozenset(), leases=failed)).events if event.reason == "CellFailed"]
    assert len(set(messages)) == 11
    assert messages[-1].startswith("2 more")
