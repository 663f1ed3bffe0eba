"""Derive actions from task states: submit, hold, stop, restart, delete.

`reconcile` is the entry point of the package; see its docstring for the callers. Pure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator.contract.plan import Plan
from orchestrator.planning.estimate import Price, cost
from orchestrator.reconcile.actions import Action, Decision, Delete, ForceDelete, RecordFailure, Restart, Stop, StudyEvent, Submit
from orchestrator.reconcile.observed import Observation, ObservedWorkflow, StudyFacts
from orchestrator.reconcile.pace import seconds_left
from orchestrator.reconcile.status import StudySummary, study_status
from orchestrator.reconcile.task_states import IN_FLIGHT, TaskState, TaskStatus, task_states
from orchestrator.workflow import Unit, remaining, short, store_label, workflow_name

# Time after its grace period at which a Terminating pod on an unresponsive node is assumed not to end by itself
FORCE_AFTER: Final = timedelta(seconds=60)
# Number of failures that get an event each; the sender drops recent duplicates
FAILURE_EVENTS: Final = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a study: its budget and its namespace's cap in GPU-hours (None: unlimited), and the stall timeout.

    `price`: estimates the GPU-seconds of a task. `submit_at_once`: maximum number of Workflows created per call, which bounds its duration.
    `workflows_at_once`: maximum number of Workflows in flight in the namespace, None: unlimited.
    """

    price: Price
    budget_gpu_hours: float | None = None
    namespace_gpu_hours: float | None = None
    stall: timedelta = timedelta(minutes=30)
    submit_at_once: int = 50
    workflows_at_once: int | None = None


def reconcile(facts: StudyFacts, plan: Plan, units: Sequence[Unit], observed: Observation, limits: Limits, now: datetime) -> Decision:
    """Return the actions to apply, the status to write and the events to send.

    `units`: the plan's units from `workflow.units`; computing them is slow, so callers cache them.
    """
    here = replace(observed, workflows=tuple(workflow for workflow in observed.workflows if not _uses_other_store(workflow, facts)))
    tasks = task_states(plan, facts.name, facts.run_number, here, now, limits.stall)
    own = [workflow for workflow in observed.workflows if workflow.study == facts.name and not workflow.is_deleted]
    budget = Budget(facts, plan, observed, limits, tasks)
    actions: list[Action] = [*_stops(facts, plan, own, observed, budget), *_restarts(tasks), *_forced(facts, observed, now)]
    actions += _failure_records(facts, tasks, observed)
    held: list[Unit] = []
    queued: list[Unit] = []
    free_places = _free_places(own, observed, limits)
    if not facts.is_paused and not budget.is_overdrawn:
        actions += _submissions(facts, plan, units, own, tasks, budget, free_places, held, queued)
    promised = budget.in_flight + sum(budget.cost_of(action.unit) for action in actions if isinstance(action, Submit))
    summary = StudySummary(
        is_paused=facts.is_paused,
        tasks=tasks,
        held=tuple(held),
        used=budget.used,
        promised=promised,
        cap=budget.cap,
        seconds_left=seconds_left(plan, tasks, observed.leases, limits.price) if _any_running(tasks) else None,
        overrun=budget.overrun,
        is_overdrawn=budget.is_overdrawn,
        queued=len(queued),
        at_once=limits.workflows_at_once,
        submits=any(isinstance(action, Submit) for action in actions),
    )
    status = study_status(facts, plan, summary, now)
    return Decision(
        tuple(actions), status, tuple(_events(facts, plan, observed, tasks, held, status, budget)), tasks, promised, len(queued)
    )


def _uses_other_store(workflow: ObservedWorkflow, facts: StudyFacts) -> bool:
    """Whether the Workflow writes to a different store than the study's current one."""
    return bool(workflow.store and facts.store) and workflow.store != store_label(facts.store)


def _any_running(tasks: Mapping[str, TaskStatus]) -> bool:
    return any(seen.state == TaskState.RUNNING for seen in tasks.values())


class Budget:
    """GPU-seconds that are spent, reserved for tasks in flight, and left."""

    def __init__(self, facts: StudyFacts, plan: Plan, observed: Observation, limits: Limits, tasks: Mapping[str, TaskStatus]) -> None:
        self.plan, self.price = plan, limits.price
        self.used = observed.spent
        self.cap = None if limits.budget_gpu_hours is None else limits.budget_gpu_hours * 3600
        self._namespace_cap = None if limits.namespace_gpu_hours is None else limits.namespace_gpu_hours * 3600
        self._namespace_used = observed.namespace_spent
        self._promised = 0.0
        self._others_promised = observed.others_promised
        self._spent = {digest: lease.gpu_seconds for digest, lease in observed.leases.items() if lease.study == facts.name}
        self.overrun: list[str] = []
        for digest, seen in tasks.items():
            if seen.state in IN_FLIGHT and seen.state != TaskState.AWAITED:
                left = self._left(digest)
                self._promised += max(0.0, left)
                if left < 0:
                    self.overrun.append(digest)
        self.in_flight = self._promised

    def _left(self, digest: str) -> float:
        """Estimated cost of a task minus the cost of its attempts, including stopped ones; negative after an overrun."""
        return cost(self.plan, self.plan.tasks[digest], self.price).gpu_seconds - self._spent.get(digest, 0.0)

    @property
    def is_overdrawn(self) -> bool:
        """Whether the spent amount exceeds a cap. Running tasks are then stopped too."""
        over_own = self.cap is not None and self.used > self.cap
        return over_own or (self._namespace_cap is not None and self._namespace_used > self._namespace_cap)

    def cost_of(self, unit: Unit) -> float:
        """Return the remaining estimated cost of a unit."""
        return sum(max(0.0, self._left(digest)) for digest in unit.tasks)

    def reserve(self, unit: Unit) -> bool:
        """Reserve the unit's remaining cost if it fits in the budget and the namespace's cap; return whether it did."""
        remaining_cost = self.cost_of(unit)
        promised = self._promised + remaining_cost
        if self.cap is not None and self.used + promised > self.cap:
            return False
        if self._namespace_cap is not None and self._namespace_used + promised + self._others_promised > self._namespace_cap:
            return False
        self._promised += remaining_cost
        return True


def _free_places(own: Sequence[ObservedWorkflow], observed: Observation, limits: Limits) -> int:
    """Number of Workflows that may be created now. Places for studies that have waited longer are not counted."""
    if limits.workflows_at_once is None:
        return limits.submit_at_once
    in_flight = observed.others_in_flight + sum(not workflow.is_over for workflow in own)
    return min(limits.submit_at_once, max(0, limits.workflows_at_once - in_flight - observed.others_first))


def _stops(facts: StudyFacts, plan: Plan, own: Sequence[ObservedWorkflow], observed: Observation, budget: Budget) -> Iterator[Action]:
    """Stop all Workflows of a paused or overdrawn study, and those with tasks that are no longer in the plan or in the store."""
    for workflow in own:
        if workflow.is_over or workflow.was_stopped:
            continue
        if facts.is_paused:
            yield Stop(workflow.name, "the study is paused")
        elif budget.is_overdrawn:
            yield Stop(workflow.name, "the budget is spent")
        elif _uses_other_store(workflow, facts):
            yield Stop(workflow.name, "the study was edited: its store changed")
        elif any(digest not in plan.tasks and digest not in observed.done for digest in workflow.digests):
            yield Stop(workflow.name, "the study was edited: its tasks changed")
        elif lost := [digest for digest in workflow.digests if digest not in observed.done and short(digest) in workflow.succeeded]:
            # Argo does not rerun a succeeded task, so a result that was quarantined since needs a new Workflow
            yield Stop(workflow.name, f"{plan.tasks[lost[0]].label} was done and is no longer in the store")


def _restarts(tasks: Mapping[str, TaskStatus]) -> Iterator[Action]:
    for seen in tasks.values():
        if seen.state == TaskState.STALLED and seen.pod:
            yield Restart(seen.pod, seen.reason)


def _forced(facts: StudyFacts, observed: Observation, now: datetime) -> Iterator[Action]:
    """Force-delete pods of this study, or of a deleted one, that exceed their grace period on an unresponsive node."""
    others = {workflow.name for workflow in observed.workflows if workflow.study != facts.name}
    for pod in observed.pods:
        if (
            pod.deletion_deadline is not None
            and not pod.node_is_ready
            and now - pod.deletion_deadline > FORCE_AFTER
            and pod.workflow not in others
        ):
            yield ForceDelete(pod.name)


def _failure_records(facts: StudyFacts, tasks: Mapping[str, TaskStatus], observed: Observation) -> Iterator[Action]:
    """Record permanent failures that the process could not record itself, for example because it was killed for exceeding its memory."""
    for digest, lease in observed.leases.items():
        seen = tasks[digest]
        if seen.state == TaskState.FAILED and lease.code is None and (lease.study, lease.run_number) == (facts.name, facts.run_number):
            yield RecordFailure(digest, lease.number, seen.reason)


def _submissions(
    facts: StudyFacts,
    plan: Plan,
    units: Sequence[Unit],
    own: Sequence[ObservedWorkflow],
    tasks: Mapping[str, TaskStatus],
    budget: Budget,
    free_places: int,
    held: list[Unit],
    queued: list[Unit],
) -> Iterator[Action]:
    """Submit units whose needs are done and that fit the budget, in the order of the plan.

    The first unit that does not fit is appended to `held`, and so are all later ones. Units beyond `free_places` are appended to `queued`.
    """
    names = {workflow.name: workflow for workflow in own}
    not_ours = {digest for digest, seen in tasks.items() if seen.state not in (TaskState.READY, TaskState.WAITING)}
    submitted = 0
    for unit in units:
        left = remaining(plan, unit, not_ours) if not not_ours.isdisjoint(unit.tasks) else unit
        if left is None or any(tasks[need].state != TaskState.DONE for need in left.needs):
            continue
        if held or not budget.reserve(left):
            held.append(left)
            continue
        existing = names.get(workflow_name(left, facts.run_number, facts.store))
        if existing is None and submitted < free_places:
            submitted += 1
            yield Submit(left, facts.run_number)
        elif existing is None:
            queued.append(left)
        elif existing is not None and existing.is_over:
            yield Delete(existing.name)


def _events(
    facts: StudyFacts,
    plan: Plan,
    observed: Observation,
    tasks: Mapping[str, TaskStatus],
    held: Sequence[Unit],
    status: Mapping[str, Any],
    budget: Budget,
) -> Iterator[StudyEvent]:
    before = facts.status.get("counts") or {}
    if facts.status.get("planDigest") != facts.plan_digest:
        yield StudyEvent("Planned", f"{len(plan.cells)} cells, {len(plan.tasks)} tasks, plan {facts.plan_digest[:12]}")
    reused = _reused(facts, plan, tasks)
    if reused:
        yield StudyEvent("TaskReused", f"{reused} of {len(plan.tasks)} tasks were already done")
    failed = sorted((seen.reason, digest) for digest, seen in tasks.items() if seen.state == TaskState.FAILED)
    if len(failed) > int(before.get("tasksFailed", 0)):
        for reason, digest in failed[:FAILURE_EVENTS]:
            yield StudyEvent("CellFailed", f"{plan.tasks[digest].label}: {reason}", is_warning=True)
        if len(failed) > FAILURE_EVENTS:
            yield StudyEvent(
                "CellFailed",
                f"{len(failed) - FAILURE_EVENTS} more tasks have failed; list them with `scaling-study status`",
                is_warning=True,
            )
    if held and not _holds(facts.status):
        yield StudyEvent("BudgetHold", f"{len(held)} Workflows do not fit the budget; the first is {held[0].label}", is_warning=True)
    for digest in budget.overrun:
        yield StudyEvent("Overrun", f"{plan.tasks[digest].label} has cost more than its estimate", is_warning=True)
    stalled = [digest for digest, seen in tasks.items() if seen.state == TaskState.STALLED]
    if stalled:
        yield StudyEvent("Stalled", f"{plan.tasks[stalled[0]].label}: {tasks[stalled[0]].reason}", is_warning=True)
    own = {workflow.name for workflow in observed.workflows if workflow.study == facts.name}
    for pod in observed.pods:
        if pod.preempted and pod.workflow in own:
            yield StudyEvent("Preempted", f"pod {pod.name} was disrupted; its task is retried in another pod: {pod.preempted}")
    if status["phase"] == facts.status.get("phase"):
        return
    if status["phase"] == "Succeeded":
        yield StudyEvent("Succeeded", f"all {len(plan.cells)} cells are done")
    elif status["phase"] == "Failed":
        counts = status["counts"]
        yield StudyEvent("Failed", f"{counts['cellsFailed']} of {counts['cells']} cells failed and no other task can run", is_warning=True)


def _reused(facts: StudyFacts, plan: Plan, tasks: Mapping[str, TaskStatus]) -> int:
    """Number of tasks that are already done when a plan is first reconciled, 0 later."""
    if facts.status.get("planDigest") == facts.plan_digest:
        return 0
    return Counter(seen.state for seen in tasks.values())[TaskState.DONE] if plan.tasks else 0


def _holds(status: Mapping[str, Any]) -> bool:
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return conditions.get("BudgetExhausted") == "True"
