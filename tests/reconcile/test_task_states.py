"""The state of a task that has several pods or Workflows."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations

import pytest

from orchestrator.contract.vocabulary import CLOCK_MARGIN, DIGEST_LABEL_LENGTH
from orchestrator.reconcile import Delete, Stop
from orchestrator.reconcile.observed import Observation, ObservedWorkflow
from orchestrator.reconcile.task_states import TaskState, TaskStatus, task_states
from tests.reconcile.decisions import FACTS, NOW, PLAN, PREPARED, decided, lease, pod, submitted, trunk, workflow

UNIT = trunk()
DIGEST = UNIT.tasks[0]
SHORT = DIGEST[:DIGEST_LABEL_LENGTH]
STALL = timedelta(minutes=30)


def state_of(observed: Observation, run_number: int = 1) -> TaskStatus:
    return task_states(PLAN, "mine", run_number, observed, NOW, STALL)[DIGEST]


@pytest.mark.parametrize("phases", sorted(set(permutations(["Failed", "Failed", "Running"]))))
def test_pod_that_still_runs_determines_the_state(phases: Sequence[str]) -> None:
    """Argo creates a new pod for every attempt, and the cluster lists them in any order."""
    pods = tuple(replace(pod(UNIT, phase=phase), name=f"pod-{number}") for number, phase in enumerate(phases))
    status = state_of(Observation(PREPARED, (workflow(UNIT),), pods))
    assert (status.state, status.pod) == (TaskState.RUNNING, f"pod-{phases.index('Running')}")


def test_task_of_an_ended_pod_that_is_being_deleted_is_stopping() -> None:
    leaving = pod(UNIT, phase="Failed", deletion_deadline=NOW + timedelta(seconds=30))
    assert state_of(Observation(PREPARED, (workflow(UNIT),), (leaving,))).state == TaskState.STOPPING


RANKED: list[tuple[str, ObservedWorkflow, ObservedWorkflow]] = [
    (
        "of the later run",
        workflow(UNIT, phase="Failed", run_number=2, failed=frozenset({SHORT}), reasons={SHORT: "the second failure"}),
        workflow(UNIT, phase="Failed", run_number=1, failed=frozenset({SHORT}), reasons={SHORT: "the first failure"}),
    ),
    (
        "of this study",
        workflow(UNIT, phase="Failed", failed=frozenset({SHORT}), reasons={SHORT: "the second failure"}),
        workflow(UNIT, study="theirs", phase="Failed", run_number=9, failed=frozenset({SHORT}), reasons={SHORT: "their failure"}),
    ),
]


@pytest.mark.parametrize(("preferred", "other"), [pair[1:] for pair in RANKED], ids=[pair[0] for pair in RANKED])
def test_failure_is_that_of_the_latest_workflow_of_this_study(preferred: ObservedWorkflow, other: ObservedWorkflow) -> None:
    for workflows in permutations((preferred, other)):
        assert state_of(Observation(PREPARED, workflows)).reason == "the second failure"


def test_workflow_in_flight_determines_the_state_regardless_of_its_study_and_run() -> None:
    ours = workflow(UNIT, phase="Failed", run_number=2, failed=frozenset({SHORT}))
    theirs = replace(workflow(UNIT, study="theirs"), name="ss-theirs")
    for workflows in permutations((ours, theirs)):
        assert state_of(Observation(PREPARED, workflows)).workflow == "ss-theirs"


@pytest.mark.parametrize("has_reason", [True, False])
def test_task_of_a_stopped_workflow_has_not_failed(has_reason: bool) -> None:
    """Argo lists tasks that it did not finish after a shutdown as failed; they can be submitted again."""
    failed = workflow(UNIT, phase="Failed", failed=frozenset({SHORT}), reasons={SHORT: "shutdown"} if has_reason else {}, message="stopped")
    assert state_of(Observation(PREPARED, (failed,))).state == TaskState.FAILED
    assert state_of(Observation(PREPARED, (replace(failed, was_stopped=True),))).state == TaskState.READY
    assert state_of(Observation(PREPARED, (failed,)), run_number=2).state == TaskState.READY


@pytest.mark.parametrize(
    ("before", "state"),
    [
        pytest.param(timedelta(0), TaskState.STALLED, id="taken by this pod"),
        pytest.param(CLOCK_MARGIN, TaskState.STALLED, id="taken by this pod, whose clock is behind"),
        pytest.param(CLOCK_MARGIN + timedelta(seconds=1), TaskState.RUNNING, id="taken by an earlier pod"),
    ],
)
def test_lease_belongs_to_a_pod_created_at_most_the_clock_margin_later(before: timedelta, state: TaskState) -> None:
    created = NOW - timedelta(hours=2)
    hung = replace(lease(minutes=90), start=created - before)
    observed = Observation(PREPARED, (workflow(UNIT),), (pod(UNIT, created=created),), {DIGEST: hung})
    assert state_of(observed).state == state


@pytest.mark.parametrize(("created", "start"), [(None, NOW), (NOW, None), (None, None)])
def test_lease_is_of_the_pod_if_either_time_is_unknown(created: datetime | None, start: datetime | None) -> None:
    hung = replace(lease(minutes=90), start=start)
    observed = Observation(PREPARED, (workflow(UNIT),), (pod(UNIT, created=created),), {DIGEST: hung})
    assert state_of(observed).state == TaskState.STALLED


def test_blocked_tasks_name_the_failure_at_the_root_of_their_chain() -> None:
    states = task_states(PLAN, "mine", 1, Observation(PREPARED, leases={DIGEST: lease(78)}), NOW, STALL)
    blocked = {digest: status.reason for digest, status in states.items() if status.state == TaskState.BLOCKED}
    cell = PLAN.cell("scratch/0.09M/c50/s1")
    assert set(blocked) == set(cell.tasks) - {DIGEST}
    assert set(blocked.values()) == {f"{PLAN.tasks[DIGEST].label} failed: it said no"}


@pytest.mark.parametrize(("study", "holder"), [("theirs", "a run of theirs"), ("", "a run")])
def test_lease_without_a_workflow_is_awaited_and_its_holder_named(study: str, holder: str) -> None:
    status = state_of(Observation(PREPARED, leases={DIGEST: replace(lease(), study=study)}))
    assert (status.state, status.reason) == (TaskState.AWAITED, f"{holder} outside this cluster holds its lease")


def test_queued_task_names_its_pod_and_why_it_waits() -> None:
    waiting = pod(UNIT, phase="Pending", reason="Unschedulable: no GPU")
    status = state_of(Observation(PREPARED, (workflow(UNIT),), (waiting,)))
    assert status == TaskStatus(TaskState.QUEUED, "Unschedulable: no GPU", waiting.workflow, waiting.name)


def test_stopped_workflow_is_deleted_only_after_its_end() -> None:
    stopping = workflow(UNIT, was_stopped=True)
    decision = decided(Observation(PREPARED, (stopping,)))
    assert Delete(stopping.name) not in decision.actions
    assert UNIT not in submitted(decision)
    ended = decided(Observation(PREPARED, (replace(stopping, phase="Failed"),)))
    assert Delete(stopping.name) in ended.actions


@pytest.mark.parametrize(("phase", "message"), [("Succeeded", ""), ("Succeeded", "done"), ("Failed", "")])
def test_task_without_a_result_is_ready_again_if_its_workflow_reports_no_failure(phase: str, message: str) -> None:
    ended = workflow(UNIT, phase=phase, message=message)
    assert state_of(Observation(PREPARED, (ended,))).state == TaskState.READY


def test_task_of_an_ended_workflow_is_stopping_while_its_lease_is_live() -> None:
    """The pod may already be gone from the API; the trainer's lease shows that it has not ended."""
    ended = workflow(UNIT, phase="Failed", was_stopped=True)
    observed = Observation(PREPARED, (ended,), leases={DIGEST: lease()})
    assert state_of(observed) == TaskStatus(TaskState.STOPPING, "its pod has not ended yet", ended.name)


@pytest.mark.parametrize(("phase", "was_stopped", "stops"), [("Running", False, True), ("Running", True, False), ("Failed", False, False)])
def test_workflow_is_stopped_once_and_only_before_its_end(phase: str, was_stopped: bool, stops: bool) -> None:
    seen = workflow(UNIT, phase=phase, was_stopped=was_stopped)
    actions = decided(Observation(PREPARED, (seen,)), replace(FACTS, is_paused=True)).actions
    assert [action.workflow for action in actions if isinstance(action, Stop)] == [seen.name] * stops
