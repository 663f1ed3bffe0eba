"""States of tasks -> actions: submit, hold, stop, restart, clear away."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator.contract.plan import Plan
from orchestrator.planning.estimate import Price, cost
from orchestrator.reconcile.actions import Action, Decision, Delete, ForceDelete, GiveUp, Restart, Stop, StudyEvent, Submit
from orchestrator.reconcile.observe import IN_FLIGHT, Observed, TaskSeen, TaskState, WorkflowSeen, task_states
from orchestrator.reconcile.pace import seconds_left
from orchestrator.reconcile.status import Standing, status_of
from orchestrator.workflow import Unit, remaining, short, store_label, workflow_name

# A pod that is Terminating so long after its grace period on a node that does not answer will not end by itself
FORCE_AFTER: Final = timedelta(seconds=60)
# Events say so many failures one by one; what was told a short while ago is not told again
FAILURES_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a study: its own budget, its namespace's cap (GPU-hours, None without), and when a task counts as stalled.

    `price` turns a task into GPU-seconds. `submit_at_once`: Workflows created in one pass, so that no pass takes long.
    `workflows_at_once`: in flight in the whole namespace, None for as many as there are.
    """

    price: Price
    budget_gpu_hours: float | None = None
    namespace_gpu_hours: float | None = None
    stall: timedelta = timedelta(minutes=30)
    submit_at_once: int = 50
    workflows_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The study's object: what it asks now, and the status that it has."""

    name: str
    generation: int
    run_number: int
    is_paused: bool
    plan_digest: str
    plan_version: int
    store: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)


def reconcile(facts: StudyFacts, plan: Plan, units: Sequence[Unit], observed: Observed, limits: Limits, now: datetime) -> Decision:
    """What to do now, the status to write, and what to tell.

    `units`: of the plan, from `workflow.units`, which is worth keeping between calls.
    """
    here = replace(observed, workflows=tuple(flight for flight in observed.workflows if not _is_elsewhere(flight, facts)))
    tasks = task_states(plan, facts.name, facts.run_number, here, now, limits.stall)
    own = [workflow for workflow in observed.workflows if workflow.study == facts.name and not workflow.is_deleted]
    purse = _Purse(facts, plan, observed, limits, tasks)
    actions: list[Action] = [*_stops(facts, plan, own, observed, purse), *_restarts(tasks), *_forced(facts, observed, now)]
    actions += _given_up(facts, tasks, observed)
    held: list[Unit] = []
    queued: list[Unit] = []
    room = _room(own, observed, limits)
    if not facts.is_paused and not purse.is_overdrawn:
        actions += _submissions(facts, plan, units, own, tasks, purse, room, held, queued)
    promised = purse.in_flight + sum(purse.wanted(action.unit) for action in actions if isinstance(action, Submit))
    standing = Standing(
        is_paused=facts.is_paused,
        tasks=tasks,
        held=tuple(held),
        used=purse.used,
        promised=promised,
        cap=purse.cap,
        seconds_left=seconds_left(plan, tasks, observed.leases, limits.price) if _some_run(tasks) else None,
        overrun=purse.overrun,
        is_overdrawn=purse.is_overdrawn,
        queued=len(queued),
        at_once=limits.workflows_at_once,
        begins=any(isinstance(action, Submit) for action in actions),
    )
    status = status_of(facts, plan, standing, now)
    return Decision(tuple(actions), status, tuple(_events(facts, plan, observed, tasks, held, status, purse)), tasks, promised, len(queued))


def _is_elsewhere(workflow: WorkflowSeen, facts: StudyFacts) -> bool:
    """Whether its results go to another store than the study names now."""
    return bool(workflow.store and facts.store) and workflow.store != store_label(facts.store)


def _some_run(tasks: Mapping[str, TaskSeen]) -> bool:
    return any(seen.state == TaskState.RUNNING for seen in tasks.values())


class _Purse:
    """GPU-seconds that are spent, promised to what is in flight, and left."""

    def __init__(self, facts: StudyFacts, plan: Plan, observed: Observed, limits: Limits, tasks: Mapping[str, TaskSeen]) -> None:
        self.plan, self.price = plan, limits.price
        self.used = observed.spent
        self.cap = None if limits.budget_gpu_hours is None else limits.budget_gpu_hours * 3600
        self._namespace_cap = None if limits.namespace_gpu_hours is None else limits.namespace_gpu_hours * 3600
        self._others = observed.others
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
        """What a task is still estimated to cost: what was spent on it is spent, also when it was stopped; below 0 when it overran."""
        return cost(self.plan, self.plan.tasks[digest], self.price).gpu_seconds - self._spent.get(digest, 0.0)

    @property
    def is_overdrawn(self) -> bool:
        """Whether more was spent than any cap allows: then what runs is stopped too."""
        over_own = self.cap is not None and self.used > self.cap
        return over_own or (self._namespace_cap is not None and self.used + self._others > self._namespace_cap)

    def wanted(self, unit: Unit) -> float:
        """What a unit is still estimated to cost."""
        return sum(max(0.0, self._left(digest)) for digest in unit.tasks)

    def admits(self, unit: Unit) -> bool:
        """Whether the unit fits beside all that is spent and promised; if so, its estimate is promised too."""
        wanted = self.wanted(unit)
        total = self.used + self._promised + wanted
        if self.cap is not None and total > self.cap:
            return False
        if self._namespace_cap is not None and total + self._others + self._others_promised > self._namespace_cap:
            return False
        self._promised += wanted
        return True


def _room(own: Sequence[WorkflowSeen], observed: Observed, limits: Limits) -> int:
    """How many Workflows may be created now: no place is taken from a study that has waited longer for one."""
    if limits.workflows_at_once is None:
        return limits.submit_at_once
    in_flight = observed.others_in_flight + sum(not workflow.is_over for workflow in own)
    return min(limits.submit_at_once, max(0, limits.workflows_at_once - in_flight - observed.others_first))


def _stops(facts: StudyFacts, plan: Plan, own: Sequence[WorkflowSeen], observed: Observed, purse: _Purse) -> Iterator[Action]:
    """Workflows that must go: all of a paused or overdrawn study, and those with work that the study no longer asks for."""
    for workflow in own:
        if workflow.is_over or workflow.was_stopped:
            continue
        if facts.is_paused:
            yield Stop(workflow.name, "the study is paused")
        elif purse.is_overdrawn:
            yield Stop(workflow.name, "the budget is spent")
        elif _is_elsewhere(workflow, facts):
            yield Stop(workflow.name, "the study was edited: another store")
        elif any(digest not in plan.tasks and digest not in observed.done for digest in workflow.digests):
            yield Stop(workflow.name, "the study was edited and asks for other tasks")
        elif lost := [digest for digest in workflow.digests if digest not in observed.done and short(digest) in workflow.succeeded]:
            # Argo does no task twice: what was done and moved aside since, as damaged, needs another Workflow
            yield Stop(workflow.name, f"{plan.tasks[lost[0]].label} was done and is no longer in the store")


def _restarts(tasks: Mapping[str, TaskSeen]) -> Iterator[Action]:
    for seen in tasks.values():
        if seen.state == TaskState.STALLED and seen.pod:
            yield Restart(seen.pod, seen.reason)


def _forced(facts: StudyFacts, observed: Observed, now: datetime) -> Iterator[Action]:
    """Pods of this study, or of none any more, that outlive their grace period on a node that does not answer."""
    others = {workflow.name for workflow in observed.workflows if workflow.study != facts.name}
    for pod in observed.pods:
        if pod.gone_by is not None and not pod.node_is_ready and now - pod.gone_by > FORCE_AFTER and pod.workflow not in others:
            yield ForceDelete(pod.name)


def _given_up(facts: StudyFacts, tasks: Mapping[str, TaskSeen], observed: Observed) -> Iterator[Action]:
    """Tasks that Argo tries no more and whose process could not say so, because it was killed for its memory for example."""
    for digest, lease in observed.leases.items():
        seen = tasks[digest]
        if seen.state == TaskState.FAILED and lease.code is None and (lease.study, lease.run_number) == (facts.name, facts.run_number):
            yield GiveUp(digest, lease.number, seen.reason)


def _submissions(
    facts: StudyFacts,
    plan: Plan,
    units: Sequence[Unit],
    own: Sequence[WorkflowSeen],
    tasks: Mapping[str, TaskSeen],
    purse: _Purse,
    room: int,
    held: list[Unit],
    queued: list[Unit],
) -> Iterator[Action]:
    """Units whose needs are done and that fit the purse, in the order of the plan; what does not fit is held, and all after it too.

    `room`: so many Workflows and no more; what it leaves out is `queued`.
    """
    names = {workflow.name: workflow for workflow in own}
    not_ours = {digest for digest, seen in tasks.items() if seen.state not in (TaskState.READY, TaskState.WAITING)}
    submitted = 0
    for unit in units:
        left = remaining(plan, unit, not_ours) if not not_ours.isdisjoint(unit.tasks) else unit
        if left is None or any(tasks[need].state != TaskState.DONE for need in left.needs):
            continue
        if held or not purse.admits(left):
            held.append(left)
            continue
        standing = names.get(workflow_name(left, facts.run_number, facts.store))
        if standing is None and submitted < room:
            submitted += 1
            yield Submit(left, facts.run_number)
        elif standing is None:
            queued.append(left)
        elif standing is not None and standing.is_over:
            yield Delete(standing.name)


def _events(
    facts: StudyFacts,
    plan: Plan,
    observed: Observed,
    tasks: Mapping[str, TaskSeen],
    held: Sequence[Unit],
    status: Mapping[str, Any],
    purse: _Purse,
) -> Iterator[StudyEvent]:
    before = facts.status.get("counts") or {}
    if facts.status.get("planDigest") != facts.plan_digest:
        yield StudyEvent("Planned", f"{len(plan.cells)} cells, {len(plan.tasks)} tasks, plan {facts.plan_digest[:12]}")
    reused = _reused(facts, plan, tasks)
    if reused:
        yield StudyEvent("TaskReused", f"{reused} of {len(plan.tasks)} tasks were done before this study asked for them")
    failed = sorted((seen.reason, digest) for digest, seen in tasks.items() if seen.state == TaskState.FAILED)
    if len(failed) > int(before.get("tasksFailed", 0)):
        for reason, digest in failed[:FAILURES_TOLD]:
            yield StudyEvent("CellFailed", f"{plan.tasks[digest].label}: {reason}", is_warning=True)
        if len(failed) > FAILURES_TOLD:
            yield StudyEvent("CellFailed", f"{len(failed) - FAILURES_TOLD} more tasks have failed; `status` shows them", is_warning=True)
    if held and not _holds(facts.status):
        yield StudyEvent("BudgetHold", f"{len(held)} Workflows do not fit the budget, first {held[0].label}", is_warning=True)
    for digest in purse.overrun:
        yield StudyEvent("Overrun", f"{plan.tasks[digest].label} has cost more than its estimate", is_warning=True)
    stalled = [digest for digest, seen in tasks.items() if seen.state == TaskState.STALLED]
    if stalled:
        yield StudyEvent("Stalled", f"{plan.tasks[stalled[0]].label}: {tasks[stalled[0]].reason}", is_warning=True)
    own = {workflow.name for workflow in observed.workflows if workflow.study == facts.name}
    for pod in observed.pods:
        if pod.preempted and pod.workflow in own:
            yield StudyEvent("Preempted", f"pod {pod.name}, whose task goes on in another: {pod.preempted}")
    if status["phase"] == facts.status.get("phase"):
        return
    if status["phase"] == "Succeeded":
        yield StudyEvent("Succeeded", f"all {len(plan.cells)} cells are done")
    elif status["phase"] == "Failed":
        counts = status["counts"]
        yield StudyEvent("Failed", f"{counts['cellsFailed']} of {counts['cells']} cells failed and nothing else is left", is_warning=True)


def _reused(facts: StudyFacts, plan: Plan, tasks: Mapping[str, TaskSeen]) -> int:
    """At the first look at a plan: how much of it is there already."""
    if facts.status.get("planDigest") == facts.plan_digest:
        return 0
    return Counter(seen.state for seen in tasks.values())[TaskState.DONE] if plan.tasks else 0


def _holds(status: Mapping[str, Any]) -> bool:
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return conditions.get("BudgetExhausted") == "True"
