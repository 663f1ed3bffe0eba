"""Conditions under which a decision stops, deletes, force-deletes or restarts Workflows and pods."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.reconcile import Delete, ForceDelete, Restart, Stop
from orchestrator.reconcile.observed import Observation
from orchestrator.reconcile.task_states import TaskState
from orchestrator.workflow import store_label, workflow_name
from tests.reconcile.decisions import (
    FACTS,
    NOW,
    PREPARED,
    decided,
    lease,
    plan_at,
    pod,
    trunk,
    workflow,
)


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


def test_workflow_of_another_store_is_stopped_and_ignored() -> None:
    unit = trunk()
    facts = replace(FACTS, store="s3://new/place")
    decision = decided(Observation(PREPARED, (workflow(unit, store=store_label("s3://old/place")),)), facts)
    assert Stop(workflow_name(unit, 1), "the study was edited: its store changed") in decision.actions
    assert decision.tasks[unit.tasks[0]].state == TaskState.READY


def test_succeeded_task_missing_from_the_store_gets_a_new_workflow() -> None:
    unit = trunk()
    damaged = workflow(unit, succeeded=frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]}))
    decision = decided(Observation(PREPARED, (damaged,)))
    assert [action.workflow for action in decision.actions if isinstance(action, Stop)] == [damaged.name]
    stopped = replace(damaged, phase="Failed", was_stopped=True)
    assert Delete(stopped.name) in decided(Observation(PREPARED, (stopped,))).actions
    assert not [action for action in decided(Observation(PREPARED | set(unit.tasks), (damaged,))).actions if isinstance(action, Stop)]


@pytest.mark.parametrize(("late", "ready", "forced"), [(61, False, True), (59, False, False), (600, True, False)])
def test_pod_is_force_deleted_only_on_an_unresponsive_node_after_its_grace_period(late: int, ready: bool, forced: bool) -> None:
    unit = trunk()
    leaving = pod(unit, deletion_deadline=NOW - timedelta(seconds=late), node_is_ready=ready)
    actions = decided(Observation(PREPARED, (workflow(unit),), (leaving,))).actions
    assert (ForceDelete(leaving.name) in actions) == forced


def test_stalled_task_is_restarted() -> None:
    unit = trunk()
    fresh = Observation(PREPARED, (workflow(unit),), (pod(unit),), {unit.tasks[0]: lease(minutes=29)})
    assert not [action for action in decided(fresh).actions if isinstance(action, Restart)]
    stale = replace(fresh, leases={unit.tasks[0]: lease(live=False, minutes=31)})
    decision = decided(stale)
    assert [action.pod for action in decision.actions if isinstance(action, Restart)] == [f"{workflow_name(unit, 1)}-pod"]
    assert "Stalled" in [event.reason for event in decision.events]


def test_lease_of_an_earlier_pod_does_not_stall_a_new_pod() -> None:
    unit = trunk()
    hung = replace(lease(minutes=90), start=NOW - timedelta(hours=2))
    waiting = Observation(PREPARED, (workflow(unit),), (pod(unit, created=NOW - timedelta(minutes=1)),), {unit.tasks[0]: hung})
    assert not any(isinstance(action, Restart) for action in decided(waiting).actions)
    itself = replace(waiting, pods=(pod(unit, created=NOW - timedelta(hours=2)),))
    assert any(isinstance(action, Restart) for action in decided(itself).actions)


def test_trainer_that_hangs_before_its_lease_starts_or_after_it_ends_is_stalled() -> None:
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
    assert not any(isinstance(action, Restart) for action in decided(waiter).actions), "the pods that the waiter waits for may be queued"


@pytest.mark.parametrize("waits", [False, True])
def test_pod_that_was_queued_for_long_is_not_stalled_by_an_earlier_short_attempt(waits: bool) -> None:
    """The lease of the earlier attempt began less than a minute before the pod was created, so it could be taken for the pod's own."""
    unit = trunk()
    created = NOW - timedelta(hours=2)
    short = replace(lease(code=75, minutes=119), start=created - timedelta(seconds=30))
    newly = pod(unit, created=created, trainer_started_at=None if waits else NOW - timedelta(seconds=2))
    decision = decided(Observation(PREPARED, (workflow(unit),), (newly,), {unit.tasks[0]: short}))
    assert not any(isinstance(action, Restart) for action in decision.actions)
