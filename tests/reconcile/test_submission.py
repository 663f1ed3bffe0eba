"""Decisions: actions, status and events for a given plan, observation, limits and time."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, WAITER, TaskKind
from orchestrator.reconcile import Delete, ForceDelete, Limits, RecordFailure, Restart, Stop, Submit
from orchestrator.reconcile.observed import Observation, ObservedWorkflow, parse_pod, parse_workflow
from orchestrator.reconcile.task_states import TaskState, task_states
from orchestrator.workflow import Unit, remaining, store_label, workflow_name
from tests.reconcile.decisions import (
    FACTS,
    LIMITS,
    NOW,
    PLAN,
    PREPARED,
    UNITS,
    condition,
    decided,
    lease,
    plan_at,
    pod,
    submitted,
    trunk,
    workflow,
)


def test_only_tasks_without_needs_are_submitted_first() -> None:
    (unit,) = submitted(decided(Observation(frozenset())))
    assert unit.label == "tokenizer"


def test_prepared_sources_release_all_trunks_only() -> None:
    released = submitted(decided(Observation(PREPARED)))
    assert {unit.label for unit in released} == {f"{cell.name} pretrain (stable)" for cell in PLAN.cells}
    assert all(len(unit.tasks) == 1 for unit in released)


def test_finished_trunk_releases_its_leaf_and_its_remainder_with_the_cooldown() -> None:
    unit = trunk()
    others = [other for other in UNITS if other != unit and other.kind == TaskKind.TRAIN]
    flights = tuple(workflow(other) for other in others if set(other.needs) <= PREPARED)
    released = submitted(decided(Observation(PREPARED | set(unit.tasks), flights)))
    pretrain, cooldown = PLAN.cell("scratch/0.09M/c50/s1").stages
    assert {frozenset(found.tasks) for found in released} == {
        frozenset({pretrain.trains[1], *(evaluation.digest for evaluation in pretrain.evaluations)}),
        frozenset({pretrain.trains[2], *cooldown.trains, *(evaluation.digest for evaluation in cooldown.evaluations)}),
    }


def test_tasks_in_flight_are_not_submitted_again() -> None:
    first = decided(Observation(PREPARED))
    flights = tuple(workflow(unit) for unit in submitted(first))
    assert not decided(Observation(PREPARED, flights)).actions


def test_task_of_another_study_is_awaited() -> None:
    unit = trunk()
    observed = Observation(PREPARED, (workflow(unit, study="theirs"),))
    assert unit not in submitted(decided(observed))
    states = task_states(PLAN, "mine", 1, observed, NOW, timedelta(hours=1))
    assert states[unit.tasks[0]].state == TaskState.AWAITED
    assert "theirs" in states[unit.tasks[0]].reason


def test_task_of_a_run_outside_the_cluster_is_awaited() -> None:
    unit = trunk()
    assert unit not in submitted(decided(Observation(PREPARED, leases={unit.tasks[0]: lease()})))


def test_manually_deleted_workflow_is_created_again() -> None:
    unit = trunk()
    assert unit in submitted(decided(Observation(PREPARED, leases={unit.tasks[0]: lease(live=False)})))


def test_stopped_task_is_not_submitted_while_its_pod_runs() -> None:
    unit = trunk()
    stopped = workflow(unit, phase="Failed", was_stopped=True)
    for observed in (
        Observation(PREPARED, (stopped,), (pod(unit, deletion_deadline=NOW + timedelta(seconds=30)),), {unit.tasks[0]: lease()}),
        Observation(PREPARED, (stopped,), (), {unit.tasks[0]: lease()}),
        Observation(PREPARED, (stopped,), (pod(unit),)),
    ):
        decision = decided(observed)
        assert unit not in submitted(decision)
        assert Delete(stopped.name) not in decision.actions
    after = decided(Observation(PREPARED, (stopped,), (pod(unit, phase="Succeeded"),), {unit.tasks[0]: lease(75)}))
    assert Delete(stopped.name) in after.actions
    assert unit in submitted(decided(Observation(PREPARED, (stopped,), (), {unit.tasks[0]: lease(75)}), replace(FACTS, run_number=2)))


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


def test_condition_gives_the_reason_of_queued_tasks() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    waiting = workflow(unit, reasons={short: "exceeded quota: gpus"})
    assert "1 wait: exceeded quota: gpus" in condition(decided(Observation(PREPARED, (waiting,))), "Progressing")["message"]
    stuck = pod(unit, phase="Pending", reason="ImagePullBackOff: no such image")
    assert "1 wait: ImagePullBackOff" in condition(decided(Observation(PREPARED, (workflow(unit),), (stuck,))), "Progressing")["message"]


def test_paused_study_stops_workflows_and_submits_none() -> None:
    unit = trunk()
    paused = replace(FACTS, is_paused=True)
    observed = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease()})
    decision = decided(observed, paused)
    assert decision.actions == (Stop(workflow_name(unit, 1), "the study is paused"),)
    assert decision.status["phase"] == "Stopping"
    stopped = Observation(PREPARED, (workflow(unit, phase="Failed", was_stopped=True),))
    assert not decided(stopped, paused).actions
    assert decided(stopped, paused).status["phase"] == "Paused"


def test_workflows_of_other_studies_are_untouched() -> None:
    unit = trunk()
    observed = Observation(
        PREPARED, (workflow(unit, study="theirs"),), (pod(unit, deletion_deadline=NOW - timedelta(days=1), node_is_ready=False),)
    )
    touching = (Stop, Delete, ForceDelete, Restart)
    assert not [action for action in decided(observed, replace(FACTS, is_paused=True)).actions if isinstance(action, touching)]


def test_workflows_of_removed_cells_are_stopped() -> None:
    gone, stays = trunk("scratch/0.09M/c50/s1"), trunk("scratch/0.09M/c0/s1")
    edited = plan_at((0,))
    decision = decided(Observation(PREPARED, (workflow(gone), workflow(stays))), plan=edited)
    assert [action for action in decision.actions if isinstance(action, Stop)] == [
        Stop(workflow_name(gone, 1), "the study was edited: its tasks changed")
    ]


def test_stalled_task_is_restarted() -> None:
    unit = trunk()
    fresh = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease(minutes=29)})
    assert not [action for action in decided(fresh).actions if isinstance(action, Restart)]
    stale = replace(fresh, leases={unit.tasks[0]: lease(live=False, minutes=31)})
    decision = decided(stale)
    assert [action.pod for action in decision.actions if isinstance(action, Restart)] == [f"{workflow_name(unit, 1)}-pod"]
    assert "Stalled" in [event.reason for event in decision.events]


@pytest.mark.parametrize(("late", "ready", "forced"), [(61, False, True), (59, False, False), (600, True, False)])
def test_pod_is_force_deleted_only_on_an_unresponsive_node_after_its_grace_period(late: int, ready: bool, forced: bool) -> None:
    unit = trunk()
    leaving = pod(unit, deletion_deadline=NOW - timedelta(seconds=late), node_is_ready=ready)
    actions = decided(Observation(PREPARED, (workflow(unit),), (leaving,))).actions
    assert (ForceDelete(leaving.name) in actions) == forced


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


def test_workflow_that_argo_rejects_is_not_created_again() -> None:
    unit = trunk()
    refused = workflow(unit, phase="Error", message="invalid spec")
    decision = decided(Observation(PREPARED, (refused,)))
    assert not any(isinstance(action, Delete) or (isinstance(action, Submit) and action.unit == unit) for action in decision.actions)
    assert decision.tasks[unit.tasks[0]].reason == "invalid spec"


def test_workflow_of_another_store_is_stopped_and_ignored() -> None:
    unit = trunk()
    facts = replace(FACTS, store="s3://new/place")
    decision = decided(Observation(PREPARED, (workflow(unit, store=store_label("s3://old/place")),)), facts)
    assert Stop(workflow_name(unit, 1), "the study was edited: its store changed") in decision.actions
    assert decision.tasks[unit.tasks[0]].state == TaskState.READY


def test_lease_of_an_earlier_pod_does_not_stall_a_new_pod() -> None:
    unit = trunk()
    hung = replace(lease(minutes=90), start=NOW - timedelta(hours=2))
    waiting = Observation(PREPARED, (workflow(unit),), (pod(unit, created=NOW - timedelta(minutes=1)),), {unit.tasks[0]: hung})
    assert not any(isinstance(action, Restart) for action in decided(waiting).actions)
    itself = replace(waiting, pods=(pod(unit, created=NOW - timedelta(hours=2)),))
    assert any(isinstance(action, Restart) for action in decided(itself).actions)


def test_trainer_that_hangs_before_or_after_its_lease_is_stalled() -> None:
    unit = trunk()
    began = NOW - timedelta(hours=2)
    silent = Observation(PREPARED, (workflow(unit),), (pod(unit, created=began, trainer_started_at=began),))
    assert any(isinstance(action, Restart) for action in decided(silent).actions)
    before_it = replace(lease(code=75, minutes=150), start=NOW - timedelta(hours=3))
    assert any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: before_it})).actions)
    after_its_end = replace(lease(code=75, minutes=90), start=began)
    assert any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: after_its_end})).actions)
    at_work = replace(lease(), start=began)
    assert not any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: at_work})).actions)
    waiter = replace(silent, pods=(pod(unit, created=began),))
    assert not any(isinstance(action, Restart) for action in decided(waiter).actions), "the pods it waits for may be queued"


@pytest.mark.parametrize("waits", [False, True])
def test_pod_that_was_queued_for_long_is_not_stalled_by_an_earlier_short_attempt(waits: bool) -> None:
    """Both were created within a minute; then the second, or the pods that a waiter waits for, were queued."""
    unit = trunk()
    created = NOW - timedelta(hours=2)
    short = replace(lease(code=75, minutes=119), start=created - timedelta(seconds=30))
    newly = pod(unit, created=created, trainer_started_at=None if waits else NOW - timedelta(seconds=2))
    decision = decided(Observation(PREPARED, (workflow(unit),), (newly,), {unit.tasks[0]: short}))
    assert not any(isinstance(action, Restart) for action in decision.actions)


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


@pytest.mark.parametrize(("account", "works"), [("scaling-study-executor", True), (WAITER, False)])
def test_trainer_start_is_the_start_of_the_main_container(account: str, works: bool) -> None:
    running = {"name": "main", "state": {"running": {"startedAt": "2030-01-01T00:00:00Z"}}}
    body = {"metadata": {"name": "p"}, "spec": {"serviceAccountName": account}, "status": {"containerStatuses": [running]}}
    assert (parse_pod(body, {}).trainer_started_at is not None) == works


def test_failure_events_are_limited() -> None:
    failed = {digest: lease(code=78) for digest in [task for unit in UNITS for task in unit.tasks][:12]}
    messages = [event.message for event in decided(Observation(frozenset(), leases=failed)).events if event.reason == "CellFailed"]
    assert len(set(messages)) == 11
    assert messages[-1].startswith("2 more")


def test_workflow_with_invalid_labels_is_parsed() -> None:
    metadata = {"name": "odd", "labels": {"scaling-study.dev/run": "two"}, "annotations": {"scaling-study.dev/tasks": "[half"}}
    found = parse_workflow({"metadata": metadata, "spec": {}})
    assert (found.run_number, found.digests) == (0, ())


def test_finished_study_sends_its_events_once() -> None:
    done = Observation(frozenset(PLAN.tasks))
    first = decided(done)
    assert (first.status["phase"], first.status["cellsDone"], first.actions) == ("Succeeded", "4/4", ())
    assert [event.reason for event in first.events] == ["Planned", "TaskReused", "Succeeded"]
    assert not decided(done, replace(FACTS, status=first.status)).events


def test_transition_time_changes_only_with_the_status() -> None:
    first = decided(Observation(PREPARED))
    later = decided(Observation(frozenset(PLAN.tasks)), replace(FACTS, status=first.status), now=NOW + timedelta(hours=1))
    assert condition(later, "Planned")["lastTransitionTime"] == "2026-01-02T12:00:00Z"
    assert condition(later, "Succeeded")["lastTransitionTime"] == "2026-01-02T13:00:00Z"


def test_unchanged_observation_gives_the_same_status() -> None:
    observed = Observation(PREPARED, (workflow(trunk()),))
    first = decided(observed)
    assert decided(observed, replace(FACTS, status=first.status), now=NOW + timedelta(minutes=5)).status == first.status


def simulate(order: Callable[[list[str]], list[str]], limits: Limits) -> set[str]:
    """Simulate a cluster that finishes one task at a time, in any order that the needs allow; return the finished digests."""
    done: set[str] = set()
    seen: dict[str, ObservedWorkflow] = {}
    for _ in range(10 * len(PLAN.tasks)):
        decision = decided(Observation(frozenset(done), tuple(seen.values())), limits=limits)
        for action in decision.actions:
            assert isinstance(action, Submit)
            assert not any(set(action.unit.tasks) & set(other.digests) for other in seen.values()), "a task was submitted twice"
            assert set(action.unit.needs) <= done
            seen[workflow_name(action.unit, 1)] = workflow(action.unit)
        ready = [
            digest for workflow in seen.values() for digest in workflow.digests
            if digest not in done and set(PLAN.tasks[digest].needs) <= done
        ]  # fmt: skip
        if not ready:
            return done
        done.add(order(ready)[0])
        seen = {
            name: workflow if not done.issuperset(workflow.digests) else replace(workflow, phase="Succeeded")
            for name, workflow in seen.items()
        }
    return done


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_task_runs_once_in_any_order(random: Any) -> None:
    def shuffled(ready: list[str]) -> list[str]:
        random.shuffle(ready)
        return ready

    assert simulate(shuffled, LIMITS) == set(PLAN.tasks)


def names_of(found: Iterable[Unit]) -> list[str]:
    return [workflow_name(unit, 1) for unit in found]


def test_units_partition_the_tasks_in_dependency_order() -> None:
    seen: set[str] = set()
    for unit in UNITS:
        assert set(unit.needs) <= seen
        assert seen.isdisjoint(unit.tasks)
        seen |= set(unit.tasks)
    assert seen == set(PLAN.tasks)
    assert len(set(names_of(UNITS))) == len(UNITS)


def test_remainder_of_a_unit_needs_the_removed_tasks() -> None:
    unit = next(unit for unit in UNITS if len(unit.tasks) > 3)
    left = remaining(PLAN, unit, {unit.tasks[0]})
    assert left is not None
    assert left.tasks == unit.tasks[1:]
    assert unit.tasks[0] in left.needs
    assert remaining(PLAN, unit, set(unit.tasks)) is None
    assert remaining(PLAN, unit, set()) is unit


def test_killed_task_without_retries_left_is_failed_before_its_lease_expires() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    gone = workflow(unit, phase="Failed", failed=frozenset({short}), reasons={short: "main: OOMKilled (exit code 137)"})
    observed = Observation(PREPARED, (gone,), (pod(unit, phase="Failed"),), {unit.tasks[0]: lease()})
    decision = decided(observed)
    assert "OOMKilled" in decision.status["failedCells"][0]["reason"]
    still_there = replace(observed, pods=(pod(unit),))
    assert not decided(still_there).status["failedCells"]


def test_succeeded_task_missing_from_the_store_gets_a_new_workflow() -> None:
    unit = trunk()
    damaged = workflow(unit, succeeded=frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]}))
    decision = decided(Observation(PREPARED, (damaged,)))
    assert [action.workflow for action in decision.actions if isinstance(action, Stop)] == [damaged.name]
    stopped = replace(damaged, phase="Failed", was_stopped=True)
    assert Delete(stopped.name) in decided(Observation(PREPARED, (stopped,))).actions
    assert not [action for action in decided(Observation(PREPARED | set(unit.tasks), (damaged,))).actions if isinstance(action, Stop)]


def test_workflows_in_flight_are_limited_by_the_namespace() -> None:
    trunks = submitted(decided(Observation(PREPARED)))
    assert len(trunks) == 4
    capped = replace(LIMITS, workflows_at_once=3)
    decision = decided(Observation(PREPARED, (workflow(trunks[0]),), others_in_flight=1), limits=capped)
    assert submitted(decision) == trunks[1:2], "the first in the order of the plan"
    assert "2 Workflows wait: the namespace allows 3 at once" in condition(decision, "Progressing")["message"]
    assert condition(decision, "BudgetExhausted")["status"] == "False"
    assert not submitted(decided(Observation(PREPARED, (workflow(trunks[0]),), others_in_flight=9), limits=capped))
    over = workflow(trunks[0], phase="Failed", was_stopped=True)
    assert len(submitted(decided(Observation(PREPARED | set(trunks[0].tasks), (over,)), limits=capped))) == 3


def test_disruption_of_a_pod_sends_an_event() -> None:
    unit = trunk()
    leaving = pod(unit, deletion_deadline=NOW + timedelta(seconds=30), preempted="PreemptionByScheduler: a pod of higher priority")
    event = decided(Observation(PREPARED, (workflow(unit),), (leaving,))).events[-1]
    assert (event.reason, "higher priority" in event.message, event.is_warning) == ("Preempted", True, False)
    others = decided(Observation(PREPARED, (workflow(unit, study="theirs"),), (leaving,))).events
    assert "Preempted" not in [event.reason for event in others]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_reason_is_that_of_the_attempt_not_of_the_retry_node(names: tuple[str, str]) -> None:
    """Both nodes may have started in the same second, and are listed in any order."""
    digest = trunk().tasks[0]
    parameters = {"parameters": [{"name": "short", "value": digest[:DIGEST_LABEL_LENGTH]}]}
    at = {"startedAt": "2030-01-01T00:00:00Z", "phase": "Failed", "inputs": parameters}
    nodes = {
        names[0]: {**at, "type": "Retry", "message": "retryStrategy.expression evaluated to false"},
        names[1]: {**at, "type": "Pod", "message": "main: OOMKilled (exit code 137)"},
    }
    body = {"metadata": {"name": "w"}, "spec": {}, "status": {"phase": "Failed", "nodes": dict(sorted(nodes.items()))}}
    seen = parse_workflow(body)
    assert seen.reasons == {digest[:DIGEST_LABEL_LENGTH]: "main: OOMKilled (exit code 137)"}
    assert seen.failed == {digest[:DIGEST_LABEL_LENGTH]}
