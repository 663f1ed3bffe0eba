"""The Workflows that a decision submits, and those that it does not submit again."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.reconcile import Delete, Limits, Submit
from orchestrator.reconcile.observed import Observation, ObservedWorkflow
from orchestrator.reconcile.task_states import TaskState, task_states
from orchestrator.workflow import Unit, remaining, workflow_name
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
    pod,
    submitted,
    trunk,
    workflow,
)


def test_only_tasks_without_dependencies_are_submitted_first() -> None:
    (unit,) = submitted(decided(Observation(frozenset())))
    assert unit.label == "tokenizer"


def test_only_trunks_are_submitted_after_the_prepare_tasks() -> None:
    released = submitted(decided(Observation(PREPARED)))
    assert {unit.label for unit in released} == {f"{cell.name} pretrain (stable)" for cell in PLAN.cells}
    assert all(len(unit.tasks) == 1 for unit in released)


def test_after_a_trunk_its_leaf_and_its_remainder_with_the_cooldown_are_submitted() -> None:
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


def test_workflow_that_argo_rejects_is_not_created_again() -> None:
    unit = trunk()
    refused = workflow(unit, phase="Error", message="invalid spec")
    decision = decided(Observation(PREPARED, (refused,)))
    assert not any(isinstance(action, Delete) or (isinstance(action, Submit) and action.unit == unit) for action in decision.actions)
    assert decision.tasks[unit.tasks[0]].reason == "invalid spec"


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


def test_rest_of_a_unit_depends_on_the_removed_tasks() -> None:
    unit = next(unit for unit in UNITS if len(unit.tasks) > 3)
    left = remaining(PLAN, unit, {unit.tasks[0]})
    assert left is not None
    assert left.tasks == unit.tasks[1:]
    assert unit.tasks[0] in left.needs
    assert remaining(PLAN, unit, set(unit.tasks)) is None
    assert remaining(PLAN, unit, set()) is unit
