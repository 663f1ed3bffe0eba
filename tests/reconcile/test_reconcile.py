"""Decisions as tables: given a plan, what a cluster and a store show, limits and a time, what is done next and what is told."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, WAITER, TaskKind
from orchestrator.reconcile import Delete, ForceDelete, GiveUp, Limits, Restart, Stop, Submit
from orchestrator.reconcile.observe import Observed, TaskState, WorkflowSeen, pod_seen, task_states, workflow_seen
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
    flight,
    lease,
    plan_at,
    pod,
    submitted,
    trunk,
)


def test_only_what_needs_nothing_is_submitted_first() -> None:
    (unit,) = submitted(decided(Observed(frozenset())))
    assert unit.label == "tokenizer"


def test_prepared_sources_release_every_trunk_and_nothing_more() -> None:
    released = submitted(decided(Observed(PREPARED)))
    assert {unit.label for unit in released} == {f"{cell.name} pretrain (stable)" for cell in PLAN.cells}
    assert all(len(unit.tasks) == 1 for unit in released)


def test_a_finished_trunk_releases_its_leaf_and_its_rest_with_the_cooldown() -> None:
    unit = trunk()
    others = [other for other in UNITS if other != unit and other.kind == TaskKind.TRAIN]
    flights = tuple(flight(other) for other in others if set(other.needs) <= PREPARED)
    released = submitted(decided(Observed(PREPARED | set(unit.tasks), flights)))
    pretrain, cooldown = PLAN.cell("scratch/0.09M/c50/s1").stages
    assert {frozenset(found.tasks) for found in released} == {
        frozenset({pretrain.trains[1], *(evaluation.digest for evaluation in pretrain.evaluations)}),
        frozenset({pretrain.trains[2], *cooldown.trains, *(evaluation.digest for evaluation in cooldown.evaluations)}),
    }


def test_what_is_in_flight_is_not_submitted_again() -> None:
    first = decided(Observed(PREPARED))
    flights = tuple(flight(unit) for unit in submitted(first))
    assert not decided(Observed(PREPARED, flights)).actions


def test_what_another_study_works_on_is_awaited() -> None:
    unit = trunk()
    observed = Observed(PREPARED, (flight(unit, study="theirs"),))
    assert unit not in submitted(decided(observed))
    states = task_states(PLAN, "mine", 1, observed, NOW, timedelta(hours=1))
    assert states[unit.tasks[0]].state == TaskState.AWAITED
    assert "theirs" in states[unit.tasks[0]].reason


def test_a_run_outside_the_cluster_is_awaited() -> None:
    unit = trunk()
    assert unit not in submitted(decided(Observed(PREPARED, leases={unit.tasks[0]: lease()})))


def test_a_workflow_deleted_by_hand_comes_again() -> None:
    unit = trunk()
    assert unit in submitted(decided(Observed(PREPARED, leases={unit.tasks[0]: lease(live=False)})))


def test_a_stopped_task_is_not_submitted_while_its_pod_still_writes() -> None:
    unit = trunk()
    stopped = flight(unit, phase="Failed", was_stopped=True)
    for observed in (
        Observed(PREPARED, (stopped,), (pod(unit, gone_by=NOW + timedelta(seconds=30)),), {unit.tasks[0]: lease()}),
        Observed(PREPARED, (stopped,), (), {unit.tasks[0]: lease()}),
        Observed(PREPARED, (stopped,), (pod(unit),)),
    ):
        decision = decided(observed)
        assert unit not in submitted(decision)
        assert Delete(stopped.name) not in decision.actions
    after = decided(Observed(PREPARED, (stopped,), (pod(unit, phase="Succeeded"),), {unit.tasks[0]: lease(75)}))
    assert Delete(stopped.name) in after.actions
    assert unit in submitted(decided(Observed(PREPARED, (stopped,), (), {unit.tasks[0]: lease(75)}), replace(FACTS, run_number=2)))


def test_a_refused_task_is_final_until_a_person_retries() -> None:
    unit = trunk()
    gone = flight(unit, phase="Failed", failed=frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]}))
    observed = Observed(PREPARED, (gone,), leases={unit.tasks[0]: lease(78)})
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
def test_what_argo_gave_up_on_is_failed_with_argos_reason(message: str) -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    gone = flight(unit, phase="Failed", failed=frozenset({short}), reasons={short: message})
    decision = decided(Observed(PREPARED, (gone,)))
    assert unit not in submitted(decision)
    assert message in decision.status["failedCells"][0]["reason"]


def test_a_failure_holds_back_only_what_needs_it() -> None:
    unit = trunk()
    decision = decided(Observed(PREPARED, leases={unit.tasks[0]: lease(78)}))
    assert len(submitted(decision)) == len(PLAN.cells) - 1
    assert decision.status["counts"]["cellsFailed"] == 1
    everything_else = frozenset(PLAN.tasks) - {
        digest for stage in PLAN.cell("scratch/0.09M/c50/s1").stages for digest in (*stage.trains, *(e.digest for e in stage.evaluations))
    }
    assert decided(Observed(everything_else, leases={unit.tasks[0]: lease(78)})).status["phase"] == "Failed"


def test_why_something_waits_is_told() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    waiting = flight(unit, reasons={short: "exceeded quota: gpus"})
    assert "1 wait: exceeded quota: gpus" in condition(decided(Observed(PREPARED, (waiting,))), "Progressing")["message"]
    stuck = pod(unit, phase="Pending", reason="ImagePullBackOff: no such image")
    assert "1 wait: ImagePullBackOff" in condition(decided(Observed(PREPARED, (flight(unit),), (stuck,))), "Progressing")["message"]


def test_pausing_stops_all_that_runs_and_submits_nothing() -> None:
    unit = trunk()
    paused = replace(FACTS, is_paused=True)
    observed = Observed(PREPARED, (flight(unit),), (pod(unit),), {unit.tasks[0]: lease()})
    decision = decided(observed, paused)
    assert decision.actions == (Stop(workflow_name(unit, 1), "the study is paused"),)
    assert decision.status["phase"] == "Stopping"
    stopped = Observed(PREPARED, (flight(unit, phase="Failed", was_stopped=True),))
    assert not decided(stopped, paused).actions
    assert decided(stopped, paused).status["phase"] == "Paused"


def test_a_study_never_touches_the_workflows_of_another() -> None:
    unit = trunk()
    observed = Observed(PREPARED, (flight(unit, study="theirs"),), (pod(unit, gone_by=NOW - timedelta(days=1), node_is_ready=False),))
    touching = (Stop, Delete, ForceDelete, Restart)
    assert not [action for action in decided(observed, replace(FACTS, is_paused=True)).actions if isinstance(action, touching)]


def test_removed_cells_stop_and_the_others_go_on() -> None:
    gone, stays = trunk("scratch/0.09M/c50/s1"), trunk("scratch/0.09M/c0/s1")
    edited = plan_at((0,))
    decision = decided(Observed(PREPARED, (flight(gone), flight(stays))), plan=edited)
    assert [action for action in decision.actions if isinstance(action, Stop)] == [
        Stop(workflow_name(gone, 1), "the study was edited and asks for other tasks")
    ]


def test_a_task_without_a_step_is_restarted() -> None:
    unit = trunk()
    fresh = Observed(PREPARED, (flight(unit),), (pod(unit),), {unit.tasks[0]: lease(minutes=29)})
    assert not [action for action in decided(fresh).actions if isinstance(action, Restart)]
    stale = replace(fresh, leases={unit.tasks[0]: lease(live=False, minutes=31)})
    decision = decided(stale)
    assert [action.pod for action in decision.actions if isinstance(action, Restart)] == [f"{workflow_name(unit, 1)}-pod"]
    assert "Stalled" in [event.reason for event in decision.events]


@pytest.mark.parametrize(("late", "ready", "forced"), [(61, False, True), (59, False, False), (600, True, False)])
def test_a_pod_is_forced_off_only_when_its_node_is_silent_and_its_grace_is_long_over(late: int, ready: bool, forced: bool) -> None:
    unit = trunk()
    leaving = pod(unit, gone_by=NOW - timedelta(seconds=late), node_is_ready=ready)
    actions = decided(Observed(PREPARED, (flight(unit),), (leaving,))).actions
    assert (ForceDelete(leaving.name) in actions) == forced


def test_a_task_that_argo_gave_up_is_failed_while_its_workflow_goes_on_with_another() -> None:
    unit = trunk()
    given_up = frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]})
    observed = Observed(PREPARED, (flight(unit, failed=given_up, reasons={next(iter(given_up)): "OOMKilled"}),))
    states = task_states(PLAN, "mine", 1, observed, NOW, timedelta(hours=1))
    assert (states[unit.tasks[0]].state, states[unit.tasks[0]].reason) == (TaskState.FAILED, "OOMKilled")
    again = task_states(PLAN, "mine", 2, observed, NOW, timedelta(hours=1))
    assert again[unit.tasks[0]].state == TaskState.READY, "a person asked for another run, which that Workflow will not make"


@pytest.mark.parametrize(("code", "run", "says"), [(None, 1, True), (78, 1, False), (None, 0, False)])
def test_an_attempt_that_was_killed_for_good_is_given_up_in_its_lease_once(code: int | None, run: int, says: bool) -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    killed = flight(unit, phase="Failed", failed=frozenset({short}), reasons={short: "OOMKilled"})
    last = replace(lease(code=code, run=run), number=4, is_live=False)
    actions = decided(Observed(PREPARED, (killed,), leases={unit.tasks[0]: last})).actions
    assert (GiveUp(unit.tasks[0], 4, "OOMKilled") in actions) == says


def test_a_workflow_that_argo_refuses_as_a_whole_is_not_made_again_and_again() -> None:
    unit = trunk()
    refused = flight(unit, phase="Error", message="invalid spec")
    decision = decided(Observed(PREPARED, (refused,)))
    assert not any(isinstance(action, Delete) or (isinstance(action, Submit) and action.unit == unit) for action in decision.actions)
    assert decision.tasks[unit.tasks[0]].reason == "invalid spec"


def test_a_workflow_for_another_store_is_stopped_and_stands_for_nothing() -> None:
    unit = trunk()
    facts = replace(FACTS, store="s3://new/place")
    decision = decided(Observed(PREPARED, (flight(unit, store=store_label("s3://old/place")),)), facts)
    assert Stop(workflow_name(unit, 1), "the study was edited: another store") in decision.actions
    assert decision.tasks[unit.tasks[0]].state == TaskState.READY


def test_a_new_pod_is_not_stalled_by_the_lease_of_the_one_before_it() -> None:
    unit = trunk()
    hung = replace(lease(minutes=90), start=NOW - timedelta(hours=2))
    waiting = Observed(PREPARED, (flight(unit),), (pod(unit, created=NOW - timedelta(minutes=1)),), {unit.tasks[0]: hung})
    assert not any(isinstance(action, Restart) for action in decided(waiting).actions)
    itself = replace(waiting, pods=(pod(unit, created=NOW - timedelta(hours=2)),))
    assert any(isinstance(action, Restart) for action in decided(itself).actions)


def test_a_trainer_that_never_takes_a_lease_or_hangs_after_it_is_stalled() -> None:
    unit = trunk()
    began = NOW - timedelta(hours=2)
    silent = Observed(PREPARED, (flight(unit),), (pod(unit, created=began, at_work_since=began),))
    assert any(isinstance(action, Restart) for action in decided(silent).actions)
    before_it = replace(lease(code=75, minutes=150), start=NOW - timedelta(hours=3))
    assert any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: before_it})).actions)
    after_its_end = replace(lease(code=75, minutes=90), start=began)
    assert any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: after_its_end})).actions)
    at_work = replace(lease(), start=began)
    assert not any(isinstance(action, Restart) for action in decided(replace(silent, leases={unit.tasks[0]: at_work})).actions)
    waiter = replace(silent, pods=(pod(unit, created=began),))
    assert not any(isinstance(action, Restart) for action in decided(waiter).actions), "its ranks may wait in a queue"


@pytest.mark.parametrize("waits", [False, True])
def test_a_pod_that_comes_after_a_long_wait_is_not_stalled_by_a_short_attempt_before_it(waits: bool) -> None:
    """Both began within a minute, the second then stood in a queue; a waiter stands there itself."""
    unit = trunk()
    created = NOW - timedelta(hours=2)
    short = replace(lease(code=75, minutes=119), start=created - timedelta(seconds=30))
    newly = pod(unit, created=created, at_work_since=None if waits else NOW - timedelta(seconds=2))
    decision = decided(Observed(PREPARED, (flight(unit),), (newly,), {unit.tasks[0]: short}))
    assert not any(isinstance(action, Restart) for action in decision.actions)


def test_what_another_study_failed_at_is_not_this_ones_failure() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    theirs = flight(unit, study="theirs", phase="Failed", failed=frozenset({short}), reasons={short: "OOMKilled"}, run_number=9)
    ours = flight(unit, phase="Failed", failed=frozenset({short}), reasons={short: "ImagePullBackOff"})
    assert decided(Observed(PREPARED, (theirs,))).tasks[unit.tasks[0]].state == TaskState.READY
    for flights in ((theirs, ours), (ours, theirs)):
        assert decided(Observed(PREPARED, flights)).tasks[unit.tasks[0]].reason == "ImagePullBackOff"
    known = decided(Observed(PREPARED, (theirs,), given_up={unit.tasks[0]: "ImagePullBackOff"}))
    assert known.tasks[unit.tasks[0]].state == TaskState.FAILED


@pytest.mark.parametrize(("account", "works"), [("scaling-study-executor", True), (WAITER, False)])
def test_the_time_since_which_a_pod_works_is_that_of_its_trainer(account: str, works: bool) -> None:
    running = {"name": "main", "state": {"running": {"startedAt": "2030-01-01T00:00:00Z"}}}
    body = {"metadata": {"name": "p"}, "spec": {"serviceAccountName": account}, "status": {"containerStatuses": [running]}}
    assert (pod_seen(body, {}).at_work_since is not None) == works


def test_failures_are_told_one_by_one_up_to_a_screen_of_them() -> None:
    failed = {digest: lease(code=78) for digest in [task for unit in UNITS for task in unit.tasks][:12]}
    told = [event.message for event in decided(Observed(frozenset(), leases=failed)).events if event.reason == "CellFailed"]
    assert len(set(told)) == 11
    assert told[-1].startswith("2 more")


def test_a_workflow_whose_labels_somebody_wrote_by_hand_stops_nobody() -> None:
    metadata = {"name": "odd", "labels": {"scaling-study.dev/run": "two"}, "annotations": {"scaling-study.dev/tasks": "[half"}}
    found = workflow_seen({"metadata": metadata, "spec": {}})
    assert (found.run_number, found.digests) == (0, ())


def test_a_finished_study_says_so_once() -> None:
    done = Observed(frozenset(PLAN.tasks))
    first = decided(done)
    assert (first.status["phase"], first.status["cellsDone"], first.actions) == ("Succeeded", "4/4", ())
    assert [event.reason for event in first.events] == ["Planned", "TaskReused", "Succeeded"]
    assert not decided(done, replace(FACTS, status=first.status)).events


def test_the_time_of_a_condition_changes_only_with_its_status() -> None:
    first = decided(Observed(PREPARED))
    later = decided(Observed(frozenset(PLAN.tasks)), replace(FACTS, status=first.status), now=NOW + timedelta(hours=1))
    assert condition(later, "Planned")["lastTransitionTime"] == "2026-01-02T12:00:00Z"
    assert condition(later, "Succeeded")["lastTransitionTime"] == "2026-01-02T13:00:00Z"


def test_a_pass_that_changes_nothing_gives_the_same_status() -> None:
    observed = Observed(PREPARED, (flight(trunk()),))
    first = decided(observed)
    assert decided(observed, replace(FACTS, status=first.status), now=NOW + timedelta(minutes=5)).status == first.status


def played(order: Callable[[list[str]], list[str]], limits: Limits) -> set[str]:
    """Plays a cluster that finishes one task after the other, in any order that the needs allow; the digests that got done."""
    done: set[str] = set()
    seen: dict[str, WorkflowSeen] = {}
    for _ in range(10 * len(PLAN.tasks)):
        decision = decided(Observed(frozenset(done), tuple(seen.values())), limits=limits)
        for action in decision.actions:
            assert isinstance(action, Submit)
            assert not any(set(action.unit.tasks) & set(other.digests) for other in seen.values()), "a task was submitted twice"
            assert set(action.unit.needs) <= done
            seen[workflow_name(action.unit, 1)] = flight(action.unit)
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
def test_in_any_order_every_task_is_done_once(random: Any) -> None:
    def shuffled(ready: list[str]) -> list[str]:
        random.shuffle(ready)
        return ready

    assert played(shuffled, LIMITS) == set(PLAN.tasks)


def names_of(found: Iterable[Unit]) -> list[str]:
    return [workflow_name(unit, 1) for unit in found]


def test_every_task_is_in_one_unit_and_no_unit_needs_a_later_one() -> None:
    seen: set[str] = set()
    for unit in UNITS:
        assert set(unit.needs) <= seen
        assert seen.isdisjoint(unit.tasks)
        seen |= set(unit.tasks)
    assert seen == set(PLAN.tasks)
    assert len(set(names_of(UNITS))) == len(UNITS)


def test_what_is_left_of_a_unit_waits_for_what_was_taken_out() -> None:
    unit = next(unit for unit in UNITS if len(unit.tasks) > 3)
    left = remaining(PLAN, unit, {unit.tasks[0]})
    assert left is not None
    assert left.tasks == unit.tasks[1:]
    assert unit.tasks[0] in left.needs
    assert remaining(PLAN, unit, set(unit.tasks)) is None
    assert remaining(PLAN, unit, set()) is unit


def test_a_killed_task_that_argo_gave_up_on_is_failed_though_its_lease_has_not_run_out() -> None:
    unit = trunk()
    short = unit.tasks[0][:DIGEST_LABEL_LENGTH]
    gone = flight(unit, phase="Failed", failed=frozenset({short}), reasons={short: "main: OOMKilled (exit code 137)"})
    observed = Observed(PREPARED, (gone,), (pod(unit, phase="Failed"),), {unit.tasks[0]: lease()})
    decision = decided(observed)
    assert "OOMKilled" in decision.status["failedCells"][0]["reason"]
    still_there = replace(observed, pods=(pod(unit),))
    assert not decided(still_there).status["failedCells"]


def test_what_argo_has_done_and_the_store_has_no_more_is_done_by_another_workflow() -> None:
    unit = trunk()
    damaged = flight(unit, succeeded=frozenset({unit.tasks[0][:DIGEST_LABEL_LENGTH]}))
    decision = decided(Observed(PREPARED, (damaged,)))
    assert [action.workflow for action in decision.actions if isinstance(action, Stop)] == [damaged.name]
    stopped = replace(damaged, phase="Failed", was_stopped=True)
    assert Delete(stopped.name) in decided(Observed(PREPARED, (stopped,))).actions
    assert not [action for action in decided(Observed(PREPARED | set(unit.tasks), (damaged,))).actions if isinstance(action, Stop)]


def test_no_more_workflows_are_in_flight_than_the_namespace_allows() -> None:
    trunks = submitted(decided(Observed(PREPARED)))
    assert len(trunks) == 4
    capped = replace(LIMITS, workflows_at_once=3)
    decision = decided(Observed(PREPARED, (flight(trunks[0]),), others_in_flight=1), limits=capped)
    assert submitted(decision) == trunks[1:2], "the first in the order of the plan"
    assert "2 Workflows wait: the namespace has 3 at once" in condition(decision, "Progressing")["message"]
    assert condition(decision, "BudgetExhausted")["status"] == "False"
    assert not submitted(decided(Observed(PREPARED, (flight(trunks[0]),), others_in_flight=9), limits=capped))
    over = flight(trunks[0], phase="Failed", was_stopped=True)
    assert len(submitted(decided(Observed(PREPARED | set(trunks[0].tasks), (over,)), limits=capped))) == 3


def test_a_pod_that_somebody_takes_away_is_told() -> None:
    unit = trunk()
    leaving = pod(unit, gone_by=NOW + timedelta(seconds=30), preempted="PreemptionByScheduler: a pod of higher priority")
    event = decided(Observed(PREPARED, (flight(unit),), (leaving,))).events[-1]
    assert (event.reason, "higher priority" in event.message, event.is_warning) == ("Preempted", True, False)
    others = decided(Observed(PREPARED, (flight(unit, study="theirs"),), (leaving,))).events
    assert "Preempted" not in [event.reason for event in others]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_what_ended_an_attempt_is_told_and_not_that_there_will_be_no_other(names: tuple[str, str]) -> None:
    """Both nodes may have begun in the same second, and come in any order."""
    digest = trunk().tasks[0]
    parameters = {"parameters": [{"name": "short", "value": digest[:DIGEST_LABEL_LENGTH]}]}
    at = {"startedAt": "2030-01-01T00:00:00Z", "phase": "Failed", "inputs": parameters}
    nodes = {
        names[0]: {**at, "type": "Retry", "message": "retryStrategy.expression evaluated to false"},
        names[1]: {**at, "type": "Pod", "message": "main: OOMKilled (exit code 137)"},
    }
    body = {"metadata": {"name": "w"}, "spec": {}, "status": {"phase": "Failed", "nodes": dict(sorted(nodes.items()))}}
    seen = workflow_seen(body)
    assert seen.reasons == {digest[:DIGEST_LABEL_LENGTH]: "main: OOMKilled (exit code 137)"}
    assert seen.failed == {digest[:DIGEST_LABEL_LENGTH]}
