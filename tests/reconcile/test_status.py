"""Conditions and events of a decision."""

from dataclasses import replace
from datetime import timedelta

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.reconcile.observed import Observation
from tests.reconcile.decisions import (
    FACTS,
    NOW,
    PLAN,
    PREPARED,
    condition,
    decided,
    pod,
    trunk,
    workflow,
)


def test_condition_gives_the_reason_of_queued_tasks() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    waiting = workflow(unit, reasons={short: "exceeded quota: gpus"})
    assert "1 wait: exceeded quota: gpus" in condition(decided(Observation(PREPARED, (waiting,))), "Progressing")["message"]
    stuck = pod(unit, phase="Pending", reason="ImagePullBackOff: no such image")
    assert "1 wait: ImagePullBackOff" in condition(decided(Observation(PREPARED, (workflow(unit),), (stuck,))), "Progressing")["message"]


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


def test_disruption_of_a_pod_sends_an_event() -> None:
    unit = trunk()
    leaving = pod(unit, deletion_deadline=NOW + timedelta(seconds=30), preempted="PreemptionByScheduler: a pod of higher priority")
    event = decided(Observation(PREPARED, (workflow(unit),), (leaving,))).events[-1]
    assert (event.reason, "higher priority" in event.message, event.is_warning) == ("Preempted", True, False)
    others = decided(Observation(PREPARED, (workflow(unit, study="theirs"),), (leaving,))).events
    assert "Preempted" not in [event.reason for event in others]
