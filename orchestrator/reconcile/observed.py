"""What was observed in the cluster and the store: the inputs of a decision, parsed from API objects.

The controller and `monitor` build these objects; `task_states` and `decide` read them. Pure: API objects come in as dictionaries.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from orchestrator.contract.vocabulary import (
    ANNOTATION_TASKS,
    LABEL_DIGEST,
    LABEL_JOBSET,
    LABEL_RUN,
    LABEL_STORE,
    LABEL_STUDY,
    OBJECT_KIND,
    WAITER,
)

Document = dict[str, Any]

LABEL_WORKFLOW: Final = "workflows.argoproj.io/workflow"
"""Argo's own label on the pods of a Workflow."""
ANNOTATION_NODE_ID: Final = "workflows.argoproj.io/node-id"
"""Argo's annotation with the id of the attempt in the Workflow's status."""
HOSTNAME_LENGTH: Final = 63
"""Kubernetes truncates a pod's name to this length for its host name."""
TERMINAL: Final = ("Succeeded", "Failed", "Error")
"""Phases of pods and Workflows that have ended."""


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The ScalingStudy object: the fields of its spec that a decision needs, and its current status."""

    name: str
    generation: int
    run_number: int
    is_paused: bool
    plan_digest: str
    plan_version: int
    store: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of one of the system's Workflows.

    `digest`: the value of its digest label. `reason`: why it waits or how it ended, as text. `deletion_deadline`: end of its grace period
    if it is being deleted. `preempted`: reason and message of a disruption by anything but its Workflow. `trainer_started_at`: start of
    its trainer; None for a pod that waits for other pods. `host`: name under which it takes leases, or that of its JobSet. `node_id`:
    Argo's id of the attempt. `gpu_start`, `gpu_end`: when it was scheduled, and when its last container ended; None if it has not.
    """

    name: str
    workflow: str
    digest: str
    phase: str
    reason: str = ""
    deletion_deadline: datetime | None = None
    node_is_ready: bool = True
    preempted: str = ""
    store: str = ""
    created: datetime | None = None
    trainer_started_at: datetime | None = None
    uid: str = ""
    host: str = ""
    node_id: str = ""
    study: str = ""
    gpus: int = 0
    gpu_start: datetime | None = None
    gpu_end: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether the pod has ended and is not being deleted."""
        return self.phase in TERMINAL and self.deletion_deadline is None


@dataclass(frozen=True, slots=True)
class ObservedWorkflow:
    """A Workflow that the system created.

    `reasons`: short digest -> Argo's latest message about that task. `was_stopped`: its shutdown was requested. `failed`, `succeeded`:
    short digests of tasks that Argo will not run again. `store`: the label of the store that receives its results. `study_uid`: UID of the
    study object that owns it. `finished`: an attempt's id in Argo -> its end; its name in Argo is also a key.
    `ended_attempts`: short digest -> number of ended attempts.
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
    study_uid: str = ""
    finished: Mapping[str, datetime] = field(default_factory=dict)
    ended_attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the Workflow has ended. A pod of a stopped Workflow may still run."""
        return self.phase in TERMINAL


@dataclass(frozen=True, slots=True)
class ObservedLease:
    """The last lease of a task, with totals over all of its attempts.

    `code`: exit code of the last attempt, None while it runs. `gpu_seconds`: cost of all attempts. `seconds`: from start to end or last
    renewal, summed over all attempts. `trained`: tokens trained by all attempts, including those trained again after a restart. `reached`:
    position of the last attempt on the trajectory, in tokens. `start` and `number`: of the last attempt.
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
class Observation:
    """All inputs of a decision that change over time.

    `workflows` and `pods`: all in the namespace. `leases`: by digest, for tasks of the plan that were ever attempted. `spent`:
    GPU-seconds of this study. `namespace_spent`: GPU-seconds of the namespace, this study included. `others_promised`: GPU-seconds that
    the other studies' tasks in flight are still estimated to cost. `others_in_flight`: number of their Workflows that have not ended.
    `others_first`: number of places reserved for studies that have waited longer. `final_failures`: digest -> reason, for tasks that
    failed permanently in this run of the study.
    """

    done: frozenset[str]
    workflows: tuple[ObservedWorkflow, ...] = ()
    pods: tuple[ObservedPod, ...] = ()
    leases: Mapping[str, ObservedLease] = field(default_factory=dict)
    spent: float = 0.0
    namespace_spent: float = 0.0
    others_promised: float = 0.0
    others_in_flight: int = 0
    others_first: int = 0
    final_failures: Mapping[str, str] = field(default_factory=dict)


def parse_workflow(body: Document) -> ObservedWorkflow:
    """Parse a Workflow object of the API."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    nodes = status.get("nodes") or {}
    reasons, ended = _node_reasons(nodes)
    return ObservedWorkflow(
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
        study_uid=next((owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("kind") == OBJECT_KIND), ""),
        finished={
            key: parse_time(node["finishedAt"])
            for name, node in nodes.items()
            if _is_ended_attempt(node)
            for key in (name, node.get("name", name))
        },
        ended_attempts=Counter(_short_of(node) for node in nodes.values() if _is_ended_attempt(node)),
    )


def _short_of(node: Document) -> str:
    """The short digest of the task that a node of a Workflow runs, "" for other nodes."""
    parameters = (node.get("inputs") or {}).get("parameters") or []
    return next((entry.get("value", "") for entry in parameters if entry.get("name") == "short"), "")


def _is_ended_attempt(node: Document) -> bool:
    return node.get("type") == "Pod" and node.get("phase") in TERMINAL and bool(node.get("finishedAt"))


def _run_number(text: str) -> int:
    """The run number in a label; 0 if the label was edited by hand and is not a number."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _digests(text: str) -> tuple[str, ...]:
    """The digests in an annotation; empty if it was edited by hand and is not a JSON list."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _node_reasons(nodes: Mapping[str, Document]) -> tuple[dict[str, str], dict[str, str]]:
    """Two maps by short digest: Argo's latest message, and the final phase of tasks that have one.

    The message of an attempt takes precedence over the message of its Retry node, which only states that retries are exhausted.
    """
    reasons: dict[str, str] = {}
    ended: dict[str, str] = {}
    for node in sorted(nodes.values(), key=lambda node: (node.get("type") != "Retry", node.get("startedAt") or "")):
        short = _short_of(node)
        if short and node.get("message"):
            reasons[short] = node["message"]
        if short and node.get("type") == "Retry" and node.get("phase") in TERMINAL:
            ended[short] = node["phase"]
    return reasons, ended


def parse_pod(body: Document, ready_nodes: Mapping[str, bool]) -> ObservedPod:
    """Parse a pod object of the API. `ready_nodes`: node name -> whether it is ready; missing nodes count as ready."""
    metadata, status, spec = body["metadata"], body.get("status") or {}, body.get("spec") or {}
    labels = metadata.get("labels") or {}
    deadline = metadata.get("deletionTimestamp")
    return ObservedPod(
        name=metadata["name"],
        workflow=labels.get(LABEL_WORKFLOW, ""),
        digest=labels.get(LABEL_DIGEST, ""),
        phase=status.get("phase") or "Pending",
        reason=_pod_reason(status),
        deletion_deadline=parse_time(deadline) if deadline else None,
        node_is_ready=ready_nodes.get(spec.get("nodeName", ""), True),
        preempted=_disruption(status),
        store=labels.get(LABEL_STORE, ""),
        created=parse_time(metadata["creationTimestamp"]) if "creationTimestamp" in metadata else None,
        trainer_started_at=None if spec.get("serviceAccountName") == WAITER else _main_started_at(status),
        uid=metadata.get("uid", ""),
        host=labels.get(LABEL_JOBSET) or spec.get("hostname") or metadata["name"][:HOSTNAME_LENGTH].rstrip("-."),
        node_id=(metadata.get("annotations") or {}).get(ANNOTATION_NODE_ID, ""),
        study=labels.get(LABEL_STUDY, ""),
        gpus=_gpus(spec),
        gpu_start=_scheduled_at(status),
        gpu_end=_last_end(status),
    )


def _gpus(spec: Document) -> int:
    containers = spec.get("containers") or ()
    limits = ((container.get("resources") or {}).get("limits") or {} for container in containers)
    return sum(int(count) for limit in limits for name, count in limit.items() if name.endswith("/gpu") and str(count).isdecimal())


def _scheduled_at(status: Document) -> datetime | None:
    """When the pod was bound to its node, which reserves its GPUs; None while it is pending."""
    times = [status["startTime"]] if status.get("startTime") else []
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "True" and condition.get("lastTransitionTime"):
            times.append(condition["lastTransitionTime"])
    return min(map(parse_time, times), default=None)


def _last_end(status: Document) -> datetime | None:
    """When the last container ended; None while one runs."""
    ends = []
    for container in status.get("containerStatuses") or ():
        at = ((container.get("state") or {}).get("terminated") or {}).get("finishedAt")
        if not at:
            return None
        ends.append(parse_time(at))
    return max(ends, default=None)


def _main_started_at(status: Document) -> datetime | None:
    for container in status.get("containerStatuses") or ():
        running = (container.get("state") or {}).get("running") or {}
        if container.get("name") == "main" and running.get("startedAt"):
            return parse_time(running["startedAt"])
    return None


def _disruption(status: Document) -> str:
    """Reason and message of a disruption, "" without one.

    Kubernetes sets DisruptionTarget on preemption, eviction, taints and node pressure; Kueue sets TerminationTarget when it preempts.
    """
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


def parse_time(text: str) -> datetime:
    """Parse a timestamp of the API."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
