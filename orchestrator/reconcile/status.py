"""Build the status of a ScalingStudy from task states: phase, conditions, counts, and failed cells. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, Final

from orchestrator.contract.plan import Cell, Plan
from orchestrator.reconcile.observed import StudyFacts
from orchestrator.reconcile.task_states import CELL_LETTERS, IN_FLIGHT, MAX_CELL_LETTERS, TaskState, TaskStatus
from orchestrator.workflow import Unit

Document = dict[str, Any]

FAILED_CELLS: Final = 20
"""Maximum number of failed cells in the status; the report lists all."""
VALID_MESSAGE: Final = "the study is valid and the namespace's policy allows it"
"""Message of the Accepted condition. The controller also uses it before there is a plan, so that planning does not change the condition."""
NAMED: Final = 5
"""Maximum number of cells or tasks named in the message of a condition."""


@dataclass(frozen=True, slots=True)
class StudySummary:
    """The inputs of the status that a decision computes.

    `used`, `promised`, `cap`: of the study itself, in GPU-seconds. `promised`: estimated remaining cost of the tasks in flight and of those
    being submitted. `seconds_left`: of all remaining tasks one after the other, None if unknown. `is_overdrawn`: the spent amount exceeds
    the study's budget or the namespace's cap. `queued`: Workflows that wait because `at_once` are in flight already. `submits`: whether
    this decision submits a Workflow.
    """

    is_paused: bool
    tasks: Mapping[str, TaskStatus]
    held: tuple[Unit, ...]
    used: float
    promised: float
    cap: float | None
    seconds_left: float | None
    overrun: Sequence[str]
    is_overdrawn: bool = False
    queued: int = 0
    at_once: int | None = None
    submits: bool = False


def study_status(facts: StudyFacts, plan: Plan, summary: StudySummary, now: datetime) -> Document:
    """Return the status. Conditions whose status is unchanged keep their transition time."""
    counts = Counter(seen.state for seen in summary.tasks.values())
    cells = [(cell, cell_state(cell, summary.tasks)) for cell in plan.cells]
    of_cells = Counter(state for _, state in cells)
    failed = [(cell, _failure_of(plan, cell, summary.tasks)) for cell, state in cells if state == TaskState.FAILED]
    phase = _phase(summary, counts, len(plan.cells), of_cells)
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    before = {condition["type"]: condition for condition in facts.status.get("conditions") or ()}
    conditions = [
        condition_of(kind, state, reason, message, facts.generation, before.get(kind), stamp)
        for kind, state, reason, message in _conditions(facts, plan, summary, counts, of_cells, failed, phase)
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
        "cellStates": "".join(CELL_LETTERS[state] for _, state in cells) if len(cells) <= MAX_CELL_LETTERS else "",
        "gpuHours": _gpu_hours(summary),
        "eta": _eta(summary.seconds_left, counts[TaskState.RUNNING]),
        "failedCells": [{"name": cell.name, "reason": reason[:1024]} for cell, reason in failed[:FAILED_CELLS]],
        "conditions": conditions,
    }


def cell_state(cell: Cell, tasks: Mapping[str, TaskStatus]) -> TaskState:
    """Return a cell's state: done, failed if a task of it failed or is blocked, otherwise its most advanced task's state."""
    states = {tasks[digest].state for digest in cell.tasks}
    if states == {TaskState.DONE}:
        return TaskState.DONE
    for state in (TaskState.FAILED, TaskState.STALLED, TaskState.RUNNING, TaskState.STOPPING, TaskState.QUEUED, TaskState.AWAITED):
        if state in states:
            return state
    return TaskState.FAILED if TaskState.BLOCKED in states else TaskState.WAITING


def _failure_of(plan: Plan, cell: Cell, tasks: Mapping[str, TaskStatus]) -> str:
    for digest in cell.tasks:
        if tasks[digest].state in (TaskState.FAILED, TaskState.BLOCKED):
            return f"{plan.tasks[digest].label}: {tasks[digest].reason}"
    return ""


def _phase(summary: StudySummary, counts: Mapping[TaskState, int], cells: int, of_cells: Mapping[TaskState, int]) -> str:
    if of_cells[TaskState.DONE] == cells:
        return "Succeeded"
    if summary.is_paused:
        return "Stopping" if any(counts[state] for state in (TaskState.RUNNING, TaskState.STOPPING, TaskState.STALLED)) else "Paused"
    if summary.submits or any(counts[state] for state in IN_FLIGHT):
        return "Running"
    if summary.held or summary.is_overdrawn:
        return "Held"
    return "Failed" if counts[TaskState.FAILED] and not counts[TaskState.READY] else "Running"


def _conditions(
    facts: StudyFacts,
    plan: Plan,
    summary: StudySummary,
    counts: Mapping[TaskState, int],
    of_cells: Mapping[TaskState, int],
    failed: Sequence[tuple[Cell, str]],
    phase: str,
) -> Iterator[tuple[str, bool, str, str]]:
    in_flight = sum(counts[state] for state in IN_FLIGHT)
    yield "Accepted", True, "Valid", VALID_MESSAGE
    yield "Planned", True, "Frozen", f"{len(plan.cells)} cells, {len(plan.tasks)} tasks, plan {facts.plan_digest[:12]}"
    text = f"{counts[TaskState.DONE]} of {len(plan.tasks)} tasks done, {in_flight} in flight{_queue(summary)}{_waits(summary)}"
    yield "Progressing", phase in ("Running", "Stopping"), phase, text
    names = ", ".join(unit.label for unit in summary.held[:NAMED]) + (" and more" if len(summary.held) > NAMED else "")
    if summary.held or summary.is_overdrawn:
        yield "BudgetExhausted", True, "Overdrawn" if summary.is_overdrawn else "DoesNotFit", f"held: {names}" if names else "stopped"
    else:
        yield "BudgetExhausted", False, "WithinBudget", f"{_hours(summary.used)} GPU-hours used"
    if failed or counts[TaskState.STALLED]:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in failed[:NAMED]))
        yield "Degraded", True, "CellsFailed" if failed else "Stalled", reasons[:1024] or "a running task has stalled"
    else:
        yield "Degraded", False, "Healthy", "no cell has failed and no task has stalled"
    done = of_cells[TaskState.DONE]
    yield "Succeeded", phase == "Succeeded", "AllCellsDone" if phase == "Succeeded" else "NotYet", f"{done} of {len(plan.cells)} cells done"


def _queue(summary: StudySummary) -> str:
    """Text about Workflows that wait for the namespace's limit."""
    if not summary.queued or summary.at_once is None:
        return ""
    return f"; {summary.queued} Workflows wait: the namespace allows {summary.at_once} at once"


def _waits(summary: StudySummary) -> str:
    """Text with the most frequent reason why submitted tasks do not run: quota, admission, image, scheduling."""
    reasons = Counter(seen.reason for seen in summary.tasks.values() if seen.state == TaskState.QUEUED and seen.reason)
    if not reasons:
        return ""
    reason, number = reasons.most_common(1)[0]
    return f"; {number} wait: {reason[:512]}"


def condition_of(
    kind: str, state: bool, reason: str, message: str, generation: int, before: Mapping[str, Any] | None, stamp: str
) -> Document:
    """Return a metav1.Condition. `before`: the current condition of this type; its transition time is kept if the status is unchanged."""
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


def _gpu_hours(summary: StudySummary) -> Document:
    used, promised = _hours(summary.used), _hours(summary.promised)
    if summary.cap is None:
        return {"used": used, "promised": promised, "summary": used}
    budget = _hours(summary.cap)
    return {"used": used, "promised": promised, "budget": budget, "summary": f"{used}/{budget}"}


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def _eta(seconds_left: float | None, running: int) -> str:
    """Remaining time in hours and minutes if as many tasks run in parallel as now; "" if no task runs or it is unknown."""
    if not running or seconds_left is None:
        return ""
    minutes = ceil(seconds_left / running / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"
