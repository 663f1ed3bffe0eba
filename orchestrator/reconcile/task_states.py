"""Derive the state of each task of a study from what was observed.

`decide` and `monitor` call it. Records in the store determine what is done; pods and leases determine what runs. A Workflow's own status
supplies only reasons, because a stopped Workflow is `Failed` at once while its pod still writes a checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import CLOCK_MARGIN, DIGEST_LABEL_LENGTH
from orchestrator.reconcile.observed import Observation, ObservedLease, ObservedPod, ObservedWorkflow


class TaskState(StrEnum):
    """The state of a task. `awaited`: another study, or a run outside this cluster, runs the task."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    STOPPING = "stopping"
    STALLED = "stalled"
    FAILED = "failed"
    AWAITED = "awaited"
    BLOCKED = "blocked"
    WAITING = "waiting"
    READY = "ready"


CELL_LETTERS: Final[dict[TaskState, str]] = {
    TaskState.DONE: "D",
    TaskState.RUNNING: "R",
    TaskState.QUEUED: "Q",
    TaskState.STOPPING: "S",
    TaskState.STALLED: "T",
    TaskState.FAILED: "F",
    TaskState.AWAITED: "A",
    TaskState.WAITING: ".",
}
"""The letter of a cell's state in a study's status. Clients without access to the store draw the grid from these letters."""
MAX_CELL_LETTERS: Final = 16_384
"""The status of a grid with more cells than this has counts only."""

IN_FLIGHT: Final = frozenset({TaskState.RUNNING, TaskState.QUEUED, TaskState.STOPPING, TaskState.STALLED, TaskState.AWAITED})


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task's state, its reason, and the Workflow and pod that run it, if any."""

    state: TaskState
    reason: str = ""
    workflow: str = ""
    pod: str = ""


def task_states(plan: Plan, study: str, run_number: int, observed: Observation, now: datetime, stall: timedelta) -> dict[str, TaskStatus]:
    """Return the status of each task of the plan. `stall`: time without a step after which a running task counts as stalled."""
    pods = _pod_by_digest(observed.pods)
    workflows = _workflow_by_digest(observed.workflows, study)
    found: dict[str, TaskStatus] = {}
    for digest in plan.tasks:
        if digest in observed.done:
            found[digest] = TaskStatus(TaskState.DONE)
        else:
            lease, pod = observed.leases.get(digest), pods.get(digest[:DIGEST_LABEL_LENGTH])
            found[digest] = _unfinished(
                digest, study, run_number, workflows.get(digest), pod, lease, now, stall, observed.final_failures.get(digest)
            )
    return _with_needs(plan, found)


def _unfinished(
    digest: str,
    study: str,
    run_number: int,
    workflow: ObservedWorkflow | None,
    pod: ObservedPod | None,
    lease: ObservedLease | None,
    now: datetime,
    stall: timedelta,
    final_failure: str | None,
) -> TaskStatus:
    if lease is not None and lease.code == ExitCode.REFUSED and lease.study == study and lease.run_number >= run_number:
        return TaskStatus(TaskState.FAILED, lease.message, workflow.name if workflow else "")
    pod_name = pod.name if pod else ""
    has_running_pod = pod is not None and not pod.is_over
    if workflow is not None and not workflow.is_over and not workflow.was_stopped:
        if workflow.study != study:
            return TaskStatus(TaskState.AWAITED, f"study {workflow.study} works on it", workflow.name, pod_name)
        if digest[:DIGEST_LABEL_LENGTH] in workflow.failed and not has_running_pod:
            # Argo does not retry this task, although the Workflow still runs other tasks
            why = workflow.reasons.get(digest[:DIGEST_LABEL_LENGTH], "Argo has exhausted its retries")
            return TaskStatus(TaskState.FAILED, why, workflow.name) if workflow.run_number >= run_number else TaskStatus(TaskState.WAITING)
        return _in_workflow(digest, workflow, pod, lease, now, stall)
    if workflow is not None and workflow.study == study and not has_running_pod and (why := _final_failure(digest, workflow, run_number)):
        # Checked before the lease: a killed process could not release it, and its expiry need not be awaited
        return TaskStatus(TaskState.FAILED, why, workflow.name)
    if final_failure is not None and not has_running_pod:
        return TaskStatus(TaskState.FAILED, final_failure)
    if has_running_pod or (lease is not None and lease.is_live):
        return _without_workflow(workflow, pod_name, has_running_pod, lease)
    return TaskStatus(TaskState.WAITING)


def _final_failure(digest: str, workflow: ObservedWorkflow, run_number: int) -> str:
    """Why Argo does not retry the task in this run; "" if it may still run."""
    short = digest[:DIGEST_LABEL_LENGTH]
    # a Workflow that Argo rejects as a whole has no failed task
    has_failed = short in workflow.failed or (not workflow.failed and workflow.phase != "Succeeded" and bool(workflow.message))
    is_final = workflow.is_over and not workflow.was_stopped and workflow.run_number >= run_number and has_failed
    return (workflow.reasons.get(short) or workflow.message or "its Workflow has failed") if is_final else ""


def _without_workflow(workflow: ObservedWorkflow | None, pod: str, has_running_pod: bool, lease: ObservedLease | None) -> TaskStatus:
    """Status of a task whose process still runs after its Workflow ended, or without a Workflow."""
    if workflow is not None or has_running_pod:
        return TaskStatus(TaskState.STOPPING, "its pod has not ended yet", workflow.name if workflow else "", pod)
    assert lease is not None
    holder = f"a run of {lease.study}" if lease.study else "a run"
    return TaskStatus(TaskState.AWAITED, f"{holder} outside this cluster holds its lease")


def _in_workflow(
    digest: str, workflow: ObservedWorkflow, pod: ObservedPod | None, lease: ObservedLease | None, now: datetime, stall: timedelta
) -> TaskStatus:
    if pod is None or pod.phase == "Pending" or pod.is_over:
        reason = (pod.reason if pod else "") or workflow.reasons.get(digest[:DIGEST_LABEL_LENGTH], "")
        return TaskStatus(TaskState.QUEUED, reason, workflow.name, pod.name if pod else "")
    if pod.deletion_deadline is not None:
        return TaskStatus(TaskState.STOPPING, "its pod is being stopped", workflow.name, pod.name)
    since = _last_activity(lease if lease is not None and _is_of(lease, pod) else None, pod)
    if since is not None and now - since > stall:
        return TaskStatus(TaskState.STALLED, f"no step since {since:%Y-%m-%d %H:%M:%S} UTC", workflow.name, pod.name)
    return TaskStatus(TaskState.RUNNING, "", workflow.name, pod.name)


def _last_activity(lease: ObservedLease | None, pod: ObservedPod) -> datetime | None:
    """Time of the last step, or of the trainer's start; None if unknown, as for a pod that waits for other pods."""
    if pod.trainer_started_at is None:
        return lease.renewed if lease is not None and lease.code is None else None
    return pod.trainer_started_at if lease is None else max(lease.renewed, pod.trainer_started_at)


def _is_of(lease: ObservedLease, pod: ObservedPod) -> bool:
    """Whether the pod, or a pod that it waits for, took the lease. Otherwise an earlier attempt took it and was killed."""
    return pod.created is None or lease.start is None or lease.start >= pod.created - CLOCK_MARGIN


def _with_needs(plan: Plan, found: dict[str, TaskStatus]) -> dict[str, TaskStatus]:
    """Mark waiting tasks ready if all their needs are done, and waiting or queued ones blocked if a need failed permanently."""
    resolved: dict[str, TaskStatus] = {}

    def resolve(digest: str) -> TaskStatus:
        if digest in resolved:
            return resolved[digest]
        status = found[digest]
        if status.state in (TaskState.WAITING, TaskState.QUEUED):
            needs = [(need, resolve(need).state) for need in plan.tasks[digest].needs]
            failed = [need for need, state in needs if state in (TaskState.FAILED, TaskState.BLOCKED)]
            if failed:
                status = TaskStatus(TaskState.BLOCKED, _why_blocked(plan, failed[0], resolved[failed[0]]), status.workflow)
            elif status.state == TaskState.WAITING and all(state == TaskState.DONE for _, state in needs):
                status = TaskStatus(TaskState.READY)
        resolved[digest] = status
        return status

    for digest in plan.tasks:
        resolve(digest)
    return resolved


def _why_blocked(plan: Plan, need: str, status: TaskStatus) -> str:
    """The failure at the root of a chain of blocked tasks."""
    if status.state == TaskState.BLOCKED:
        return status.reason
    return f"{plan.tasks[need].label} failed{f': {status.reason}' if status.reason else ''}"


def _pod_by_digest(pods: Iterable[ObservedPod]) -> dict[str, ObservedPod]:
    """One pod for each short digest: the one that still runs, if any. Argo creates a new pod for every attempt."""
    found: dict[str, ObservedPod] = {}
    for pod in pods:
        known = found.get(pod.digest)
        if known is None or known.is_over:
            found[pod.digest] = pod
    return found


def _workflow_by_digest(workflows: Iterable[ObservedWorkflow], study: str) -> dict[str, ObservedWorkflow]:
    """One Workflow for each digest: prefer one that has not ended, then the study's own, then the later run."""

    def rank(workflow: ObservedWorkflow) -> tuple[bool, bool, int]:
        return not workflow.is_over, workflow.study == study, workflow.run_number

    found: dict[str, ObservedWorkflow] = {}
    for workflow in workflows:
        for digest in workflow.digests:
            known = found.get(digest)
            if known is None or rank(workflow) > rank(known):
                found[digest] = workflow
    return found
