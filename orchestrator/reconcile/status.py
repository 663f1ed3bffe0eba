"""States of tasks -> the status of a ScalingStudy: phase, conditions, counts, and the cells that failed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from orchestrator.contract.plan import Cell, Plan
from orchestrator.reconcile.observe import CELL_LETTERS, IN_FLIGHT, MOST_CELL_LETTERS, TaskSeen, TaskState
from orchestrator.workflow import Unit

if TYPE_CHECKING:
    from orchestrator.reconcile.decide import StudyFacts

Document = dict[str, Any]

FAILED_CELLS: Final = 20
"""How many failed cells the status names; the report names all."""
NAMED: Final = 5
"""How many cells or tasks the message of a condition names."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a decision found: everything that the status tells. `used`, `promised` and `cap`, the study's own, in GPU-seconds.

    `promised`: what is in flight, with what this decision submits, is still estimated to cost.

    `seconds_left`: of all tasks that are left, one after the other; None while nobody can know.

    `is_overdrawn`: more was spent than the study's budget or the namespace's cap allows. `queued`: Workflows that could start, but no more
    than `at_once` are in flight. `begins`: whether this decision submits something.
    """

    is_paused: bool
    tasks: Mapping[str, TaskSeen]
    held: tuple[Unit, ...]
    used: float
    promised: float
    cap: float | None
    seconds_left: float | None
    overrun: Sequence[str]
    is_overdrawn: bool = False
    queued: int = 0
    at_once: int | None = None
    begins: bool = False


def status_of(facts: "StudyFacts", plan: Plan, standing: Standing, now: datetime) -> Document:
    """The status, with the times of conditions that have not changed kept."""
    counts = Counter(seen.state for seen in standing.tasks.values())
    cells = [(cell, cell_state(cell, standing.tasks)) for cell in plan.cells]
    of_cells = Counter(state for _, state in cells)
    failed = [(cell, _why(plan, cell, standing.tasks)) for cell, state in cells if state == TaskState.FAILED]
    phase = _phase(standing, counts, len(plan.cells), of_cells)
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    before = {condition["type"]: condition for condition in facts.status.get("conditions") or ()}
    conditions = [
        condition_of(kind, state, reason, message, facts.generation, before.get(kind), stamp)
        for kind, state, reason, message in _conditions(facts, plan, standing, counts, of_cells, failed, phase)
    ]
    return {
        "observedGeneration": facts.generation,
        "phase": phase,
        "planDigest": facts.plan_digest,
        "planVersion": facts.plan_version,
        "runNumber": facts.run_number,
        "counts": {
            "cells": len(plan.cells),
            "cellsDone": of_cells[TaskState.DONE],
            "cellsFailed": of_cells[TaskState.FAILED],
            "tasks": len(plan.tasks),
            "tasksDone": counts[TaskState.DONE],
            "tasksRunning": counts[TaskState.RUNNING],
            "tasksQueued": counts[TaskState.QUEUED],
            "tasksFailed": counts[TaskState.FAILED],
        },
        "cellsDone": f"{of_cells[TaskState.DONE]}/{len(plan.cells)}",
        "cellStates": "".join(CELL_LETTERS[state] for _, state in cells) if len(cells) <= MOST_CELL_LETTERS else "",
        "gpuHours": _gpu_hours(standing),
        "eta": _eta(standing.seconds_left, counts[TaskState.RUNNING]),
        "failedCells": [{"name": cell.name, "reason": reason[:1024]} for cell, reason in failed[:FAILED_CELLS]],
        "conditions": conditions,
    }


def cell_state(cell: Cell, tasks: Mapping[str, TaskSeen]) -> TaskState:
    """The state of a cell: done, failed when something of it never comes, else the furthest that one of its tasks has got."""
    states = {tasks[digest].state for digest in cell.tasks}
    if states == {TaskState.DONE}:
        return TaskState.DONE
    for state in (TaskState.FAILED, TaskState.STALLED, TaskState.RUNNING, TaskState.STOPPING, TaskState.QUEUED, TaskState.AWAITED):
        if state in states:
            return state
    return TaskState.FAILED if TaskState.BLOCKED in states else TaskState.WAITING


def _why(plan: Plan, cell: Cell, tasks: Mapping[str, TaskSeen]) -> str:
    for digest in cell.tasks:
        if tasks[digest].state in (TaskState.FAILED, TaskState.BLOCKED):
            return f"{plan.tasks[digest].label}: {tasks[digest].reason}"
    return ""


def _phase(standing: Standing, counts: Mapping[TaskState, int], cells: int, of_cells: Mapping[TaskState, int]) -> str:
    if of_cells[TaskState.DONE] == cells:
        return "Succeeded"
    if standing.is_paused:
        return "Stopping" if any(counts[state] for state in (TaskState.RUNNING, TaskState.STOPPING, TaskState.STALLED)) else "Paused"
    if standing.begins or any(counts[state] for state in IN_FLIGHT):
        return "Running"
    if standing.held or standing.is_overdrawn:
        return "Held"
    return "Failed" if counts[TaskState.FAILED] and not counts[TaskState.READY] else "Running"


def _conditions(
    facts: "StudyFacts",
    plan: Plan,
    standing: Standing,
    counts: Mapping[TaskState, int],
    of_cells: Mapping[TaskState, int],
    failed: Sequence[tuple[Cell, str]],
    phase: str,
) -> Iterator[tuple[str, bool, str, str]]:
    in_flight = sum(counts[state] for state in IN_FLIGHT)
    yield "Accepted", True, "Valid", "the study file has no mistakes and is allowed here"
    yield "Planned", True, "Frozen", f"{len(plan.cells)} cells, {len(plan.tasks)} tasks, plan {facts.plan_digest[:12]}"
    told = f"{counts[TaskState.DONE]} of {len(plan.tasks)} tasks done, {in_flight} in flight{_queue(standing)}{_waits(standing)}"
    yield "Progressing", phase in ("Running", "Stopping"), phase, told
    names = ", ".join(unit.label for unit in standing.held[:NAMED]) + (" and more" if len(standing.held) > NAMED else "")
    if standing.held or standing.is_overdrawn:
        yield "BudgetExhausted", True, "Overdrawn" if standing.is_overdrawn else "DoesNotFit", f"held: {names}" if names else "stopped"
    else:
        yield "BudgetExhausted", False, "WithinBudget", f"{_hours(standing.used)} GPU-hours used"
    if failed or counts[TaskState.STALLED]:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in failed[:NAMED]))
        yield "Degraded", True, "CellsFailed" if failed else "Stalled", reasons[:1024] or "a task makes no step"
    else:
        yield "Degraded", False, "Healthy", "no cell has failed and nothing stalls"
    done = of_cells[TaskState.DONE]
    yield "Succeeded", phase == "Succeeded", "AllCellsDone" if phase == "Succeeded" else "NotYet", f"{done} of {len(plan.cells)} cells done"


def _queue(standing: Standing) -> str:
    """What could start and is not submitted yet."""
    if not standing.queued or standing.at_once is None:
        return ""
    return f"; {standing.queued} Workflows wait: the namespace has {standing.at_once} at once"


def _waits(standing: Standing) -> str:
    """Why something that was submitted does not run: quota, admission, image, scheduling."""
    reasons = Counter(seen.reason for seen in standing.tasks.values() if seen.state == TaskState.QUEUED and seen.reason)
    if not reasons:
        return ""
    reason, number = reasons.most_common(1)[0]
    return f"; {number} wait: {reason[:512]}"


def condition_of(
    kind: str, state: bool, reason: str, message: str, generation: int, before: Mapping[str, Any] | None, stamp: str
) -> Document:
    """A metav1.Condition; `before`: the one of this kind that the status has, whose time is kept while its state is the same."""
    text = str(state)
    since = before["lastTransitionTime"] if before is not None and before["status"] == text else stamp
    return {
        "type": kind,
        "status": text,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    }


def _gpu_hours(standing: Standing) -> Document:
    used, promised = _hours(standing.used), _hours(standing.promised)
    if standing.cap is None:
        return {"used": used, "promised": promised, "summary": used}
    budget = _hours(standing.cap)
    return {"used": used, "promised": promised, "budget": budget, "summary": f"{used}/{budget}"}


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def _eta(seconds_left: float | None, running: int) -> str:
    """In hours and minutes, if as many tasks go on side by side as run now; "" while nothing runs or nobody can know."""
    if not running or seconds_left is None:
        return ""
    minutes = ceil(seconds_left / running / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"
