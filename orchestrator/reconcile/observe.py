"""Sorts what a cluster and a store show into the states of a study's tasks.

The controller reads, this sorts, `reconcile` decides. What is done is learned from the store, what runs from pods and leases; a
Workflow's own status serves for reasons only, since a stopped one is `Failed` at once while its pod still writes a checkpoint.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import (
    ANNOTATION_TASKS,
    DIGEST_LABEL_LENGTH,
    LABEL_DIGEST,
    LABEL_RUN,
    LABEL_STORE,
    LABEL_STUDY,
    WAITER,
    ExitCode,
)

Document = dict[str, Any]

LABEL_WORKFLOW: Final = "workflows.argoproj.io/workflow"
"""Argo's own label on the pods of a Workflow."""
TERMINAL: Final = ("Succeeded", "Failed", "Error")


class TaskState(StrEnum):
    """Where a task stands. `awaited`: another study, or a run outside this cluster, works on it."""

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
"""A cell's state in the status of a study: whoever cannot reach the store draws the grid from these."""
MOST_CELL_LETTERS: Final = 16_384
"""Of a larger grid the status has counts alone."""

CLOCK_MARGIN: Final = timedelta(seconds=60)
"""How far the clocks of the API server and of a pod may be apart."""

IN_FLIGHT: Final = frozenset({TaskState.RUNNING, TaskState.QUEUED, TaskState.STOPPING, TaskState.STALLED, TaskState.AWAITED})


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod of one of our Workflows.

    `digest`: what its label holds. `reason`: why it waits or how it ended, for people. `gone_by`: when its grace period ends, for one
    that is being stopped. `preempted`: by whom and why, for one that somebody else than its Workflow takes away. `at_work_since`: when its
    trainer was started, None for a pod that waits for others.
    """

    name: str
    workflow: str
    digest: str
    phase: str
    reason: str = ""
    gone_by: datetime | None = None
    node_is_ready: bool = True
    preempted: str = ""
    store: str = ""
    created: datetime | None = None
    at_work_since: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.phase in TERMINAL and self.gone_by is None


@dataclass(frozen=True, slots=True)
class WorkflowSeen:
    """A Workflow of ours. `reasons`: short digest -> what Argo says of that task. `was_stopped`: somebody asked it to shut down.

    `failed`, `succeeded`: short digests of tasks that it does no more. `store`: the label of where its results go.
    """

    name: str
    study: str
    run_number: int
    digests: tuple[str, ...]
    phase: str
    message: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    succeeded: frozenset[str] = frozenset()
    was_stopped: bool = False
    is_deleted: bool = False
    store: str = ""

    @property
    def is_over(self) -> bool:
        return self.phase in TERMINAL


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """The last lease on a task, and what all of its attempts have cost. `code`: how the last one ended, None while it works.

    `seconds`: from start to end or last renewal, of all attempts; `trained`: tokens that they trained, again after a loss included;
    `reached`: where the last one stands on the trajectory; `start`: when it began; `number`: the attempt's.
    """

    study: str
    run_number: int
    is_live: bool
    renewed: datetime
    code: int | None
    message: str
    gpu_seconds: float
    seconds: float = 0.0
    trained: int = 0
    reached: int = 0
    start: datetime | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a decision may rest on.

    `workflows` and `pods`: of the whole namespace. `leases`: by digest, of tasks of the plan that were ever worked on. `spent`:
    GPU-seconds that this study's leases account for. `others`: GPU-seconds that the namespace's other studies have spent.
    `others_promised`: what their tasks in flight are still estimated to cost.
    `others_in_flight`: their Workflows that are not over. `others_first`: how many of them have waited longer for a place of their own.
    `given_up`: why tasks failed for good in this run, of those that this study has seen fail.
    """

    done: frozenset[str]
    workflows: tuple[WorkflowSeen, ...] = ()
    pods: tuple[PodSeen, ...] = ()
    leases: Mapping[str, LeaseSeen] = field(default_factory=dict)
    spent: float = 0.0
    others: float = 0.0
    others_promised: float = 0.0
    others_in_flight: int = 0
    others_first: int = 0
    given_up: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """A task's state, why, and the Workflow and pod that it is in, if any."""

    state: TaskState
    reason: str = ""
    workflow: str = ""
    pod: str = ""


def task_states(plan: Plan, study: str, run_number: int, observed: Observed, now: datetime, stall: timedelta) -> dict[str, TaskSeen]:
    """The state of every task of the plan. `stall`: how long a running task may go without a step."""
    pods = _newest_pods(observed.pods)
    flights = _flights(observed.workflows, study)
    found: dict[str, TaskSeen] = {}
    for digest in plan.tasks:
        if digest in observed.done:
            found[digest] = TaskSeen(TaskState.DONE)
        else:
            lease, pod = observed.leases.get(digest), pods.get(digest[:DIGEST_LABEL_LENGTH])
            found[digest] = _unfinished(
                digest, study, run_number, flights.get(digest), pod, lease, now, stall, observed.given_up.get(digest)
            )
    return _with_needs(plan, found)


def _unfinished(
    digest: str,
    study: str,
    run_number: int,
    flight: WorkflowSeen | None,
    pod: PodSeen | None,
    lease: LeaseSeen | None,
    now: datetime,
    stall: timedelta,
    given_up: str | None,
) -> TaskSeen:
    if lease is not None and lease.code == ExitCode.REFUSED and lease.study == study and lease.run_number >= run_number:
        return TaskSeen(TaskState.FAILED, lease.message, flight.name if flight else "")
    pod_name = pod.name if pod else ""
    at_work = pod is not None and not pod.is_over
    if flight is not None and not flight.is_over and not flight.was_stopped:
        if flight.study != study:
            return TaskSeen(TaskState.AWAITED, f"study {flight.study} works on it", flight.name, pod_name)
        if digest[:DIGEST_LABEL_LENGTH] in flight.failed and not at_work:
            # Argo does it no more, while the Workflow goes on with others
            why = flight.reasons.get(digest[:DIGEST_LABEL_LENGTH], "Argo has given it up")
            return TaskSeen(TaskState.FAILED, why, flight.name) if flight.run_number >= run_number else TaskSeen(TaskState.WAITING)
        return _in_workflow(digest, flight, pod, lease, now, stall)
    if flight is not None and flight.study == study and not at_work and (why := _given_up(digest, flight, run_number)):
        # a process that was killed could not give its lease back: nobody waits for that
        return TaskSeen(TaskState.FAILED, why, flight.name)
    if given_up is not None and not at_work:
        return TaskSeen(TaskState.FAILED, given_up)
    if at_work or (lease is not None and lease.is_live):
        return _outliving(flight, pod_name, at_work, lease)
    return TaskSeen(TaskState.WAITING)


def _given_up(digest: str, flight: WorkflowSeen, run_number: int) -> str:
    """Why Argo tries the task no more in this run, "" where it has not given up."""
    short = digest[:DIGEST_LABEL_LENGTH]
    # a Workflow that Argo refuses as a whole has no failed task
    has_failed = short in flight.failed or (not flight.failed and flight.phase != "Succeeded" and bool(flight.message))
    is_final = flight.is_over and not flight.was_stopped and flight.run_number >= run_number and has_failed
    return (flight.reasons.get(short) or flight.message or "its Workflow has failed") if is_final else ""


def _outliving(flight: WorkflowSeen | None, pod: str, at_work: bool, lease: LeaseSeen | None) -> TaskSeen:
    """A process that goes on after its Workflow, or without one."""
    if flight is not None or at_work:
        return TaskSeen(TaskState.STOPPING, "its pod has not ended yet", flight.name if flight else "", pod)
    assert lease is not None
    return TaskSeen(TaskState.AWAITED, f"a run of {lease.study or 'somebody'} outside this cluster holds its lease")


def _in_workflow(
    digest: str, flight: WorkflowSeen, pod: PodSeen | None, lease: LeaseSeen | None, now: datetime, stall: timedelta
) -> TaskSeen:
    if pod is None or pod.phase == "Pending" or pod.is_over:
        reason = (pod.reason if pod else "") or flight.reasons.get(digest[:DIGEST_LABEL_LENGTH], "")
        return TaskSeen(TaskState.QUEUED, reason, flight.name, pod.name if pod else "")
    if pod.gone_by is not None:
        return TaskSeen(TaskState.STOPPING, "its pod is being stopped", flight.name, pod.name)
    since = _last_sign(lease if lease is not None and _is_of(lease, pod) else None, pod)
    if since is not None and now - since > stall:
        return TaskSeen(TaskState.STALLED, f"no step since {since:%Y-%m-%d %H:%M:%S} UTC", flight.name, pod.name)
    return TaskSeen(TaskState.RUNNING, "", flight.name, pod.name)


def _last_sign(lease: LeaseSeen | None, pod: PodSeen) -> datetime | None:
    """When the pod's process made its last step, or was started; None where nobody can know, as of a pod that waits for others."""
    if pod.at_work_since is None:
        return lease.renewed if lease is not None and lease.code is None else None
    return pod.at_work_since if lease is None else max(lease.renewed, pod.at_work_since)


def _is_of(lease: LeaseSeen, pod: PodSeen) -> bool:
    """Whether the pod, or one that it waits for, took the lease: it may be of an attempt before, which was killed."""
    return pod.created is None or lease.start is None or lease.start >= pod.created - CLOCK_MARGIN


def _with_needs(plan: Plan, found: dict[str, TaskSeen]) -> dict[str, TaskSeen]:
    """What waits is ready when all it needs is done, blocked when some of it never will be."""
    settled: dict[str, TaskSeen] = {}

    def settle(digest: str) -> TaskSeen:
        if digest in settled:
            return settled[digest]
        seen = found[digest]
        if seen.state in (TaskState.WAITING, TaskState.QUEUED):
            needs = [(need, settle(need).state) for need in plan.tasks[digest].needs]
            hopeless = [need for need, state in needs if state in (TaskState.FAILED, TaskState.BLOCKED)]
            if hopeless:
                seen = TaskSeen(TaskState.BLOCKED, _why_hopeless(plan, hopeless[0], settled[hopeless[0]]), seen.workflow)
            elif seen.state == TaskState.WAITING and all(state == TaskState.DONE for _, state in needs):
                seen = TaskSeen(TaskState.READY)
        settled[digest] = seen
        return seen

    for digest in plan.tasks:
        settle(digest)
    return settled


def _why_hopeless(plan: Plan, need: str, seen: TaskSeen) -> str:
    """What failed first, however many tasks are between."""
    if seen.state == TaskState.BLOCKED:
        return seen.reason
    return f"{plan.tasks[need].label} failed{f': {seen.reason}' if seen.reason else ''}"


def _newest_pods(pods: Iterable[PodSeen]) -> dict[str, PodSeen]:
    """One pod a task: the one that is still at work, if any. Argo makes a new one for every attempt."""
    found: dict[str, PodSeen] = {}
    for pod in pods:
        known = found.get(pod.digest)
        if known is None or known.is_over:
            found[pod.digest] = pod
    return found


def _flights(workflows: Iterable[WorkflowSeen], study: str) -> dict[str, WorkflowSeen]:
    """One Workflow a task: one that is at work before one that is over, then the study's own, then the younger run before the older."""

    def rank(workflow: WorkflowSeen) -> tuple[bool, bool, int]:
        return not workflow.is_over, workflow.study == study, workflow.run_number

    found: dict[str, WorkflowSeen] = {}
    for workflow in workflows:
        for digest in workflow.digests:
            known = found.get(digest)
            if known is None or rank(workflow) > rank(known):
                found[digest] = workflow
    return found


# From the API's objects


def workflow_seen(body: Document) -> WorkflowSeen:
    """A Workflow as the API shows it."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    reasons, ended = _node_reasons(status.get("nodes") or {})
    return WorkflowSeen(
        name=metadata["name"],
        study=labels.get(LABEL_STUDY, ""),
        run_number=_run_number(labels.get(LABEL_RUN, "")),
        digests=_digests((metadata.get("annotations") or {}).get(ANNOTATION_TASKS, "")),
        phase=status.get("phase") or "Pending",
        message=status.get("message") or "",
        reasons=reasons,
        failed=frozenset(short for short, phase in ended.items() if phase in ("Failed", "Error")),
        succeeded=frozenset(short for short, phase in ended.items() if phase == "Succeeded"),
        was_stopped=bool(body["spec"].get("shutdown")),
        is_deleted="deletionTimestamp" in metadata,
        store=labels.get(LABEL_STORE, ""),
    )


def _run_number(text: str) -> int:
    """0 where somebody wrote a label of ours by hand."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _digests(text: str) -> tuple[str, ...]:
    """None where somebody wrote the annotation by hand."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _node_reasons(nodes: Mapping[str, Document]) -> tuple[dict[str, str], dict[str, str]]:
    """Short digest -> the last thing Argo said of it; and -> how it ended for good, of those that did.

    What is said of an attempt comes before what is said of all of them together, which is only that there will be no other.
    """
    reasons: dict[str, str] = {}
    ended: dict[str, str] = {}
    for node in sorted(nodes.values(), key=lambda node: (node.get("type") != "Retry", node.get("startedAt") or "")):
        parameters = (node.get("inputs") or {}).get("parameters") or []
        short = next((entry.get("value", "") for entry in parameters if entry.get("name") == "short"), "")
        if short and node.get("message"):
            reasons[short] = node["message"]
        if short and node.get("type") == "Retry" and node.get("phase") in TERMINAL:
            ended[short] = node["phase"]
    return reasons, ended


def pod_seen(body: Document, ready_nodes: Mapping[str, bool]) -> PodSeen:
    """A pod as the API shows it. `ready_nodes`: name -> whether the node answers; a node that is not in it counts as ready."""
    metadata, status, spec = body["metadata"], body.get("status") or {}, body.get("spec") or {}
    labels = metadata.get("labels") or {}
    gone_by = metadata.get("deletionTimestamp")
    return PodSeen(
        name=metadata["name"],
        workflow=labels.get(LABEL_WORKFLOW, ""),
        digest=labels.get(LABEL_DIGEST, ""),
        phase=status.get("phase") or "Pending",
        reason=_pod_reason(status),
        gone_by=time_of(gone_by) if gone_by else None,
        node_is_ready=ready_nodes.get(spec.get("nodeName", ""), True),
        preempted=_disruption(status),
        store=labels.get(LABEL_STORE, ""),
        created=time_of(metadata["creationTimestamp"]) if "creationTimestamp" in metadata else None,
        at_work_since=None if spec.get("serviceAccountName") == WAITER else _started(status),
    )


def _started(status: Document) -> datetime | None:
    for container in status.get("containerStatuses") or ():
        running = (container.get("state") or {}).get("running") or {}
        if container.get("name") == "main" and running.get("startedAt"):
            return time_of(running["startedAt"])
    return None


def _disruption(status: Document) -> str:
    """Kubernetes marks a pod that its scheduler, an eviction, a taint or its kubelet takes away; Kueue one that it preempts."""
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("DisruptionTarget", "TerminationTarget") and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return ""


def _pod_reason(status: Document) -> str:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in ("PodInitializing", "ContainerCreating"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return str(status.get("message") or status.get("reason") or "")


def time_of(text: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
