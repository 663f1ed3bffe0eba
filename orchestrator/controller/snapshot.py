"""One listing of a namespace: studies, our Workflows and pods, and whether nodes answer.

Every round of the loop begins with one, and all studies of the round are looked at with it. Bodies are dropped as soon as they are read:
a Workflow of Argo's weighs a hundred times what a decision needs of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.cluster import Cluster, Document, Kind
from orchestrator.contract.words import LABEL_MANAGED_BY, MANAGED_BY
from orchestrator.errors import Refused
from orchestrator.observe import PodSeen, WorkflowSeen, pod_seen, workflow_seen

OURS: Mapping[str, str] = {LABEL_MANAGED_BY: MANAGED_BY}


@dataclass(slots=True)
class Snapshot:
    """`versions`: where a watch of a kind goes on. Workflows that are submitted meanwhile are added, so that a later study sees them."""

    studies: dict[str, Document]
    workflows: dict[str, WorkflowSeen]
    pods: tuple[PodSeen, ...]
    versions: dict[Kind, str] = field(default_factory=dict)

    def owner(self, workflow: str) -> str:
        """The study that a Workflow belongs to, "" for one that is not there."""
        return self.workflows[workflow].study if workflow in self.workflows else ""


def take_snapshot(cluster: Cluster, now: datetime) -> Snapshot:
    """Raises ClusterError."""
    studies = cluster.list("scalingstudies")
    workflows = cluster.list("workflows", OURS)
    pods = cluster.list("pods", OURS)
    ready = _ready_nodes(cluster, pods.items, now)
    return Snapshot(
        studies={body["metadata"]["name"]: body for body in studies.items},
        workflows={body["metadata"]["name"]: workflow_seen(body) for body in workflows.items},
        pods=tuple(pod_seen(body, ready) for body in pods.items),
        versions={"scalingstudies": studies.resource_version, "workflows": workflows.resource_version, "pods": pods.resource_version},
    )


def _ready_nodes(cluster: Cluster, pods: Iterable[Document], now: datetime) -> dict[str, bool]:
    """Asked only while a pod outlives its grace period, and told from such pods where a namespaced role may not see nodes."""
    late = [pod for pod in pods if _is_late(pod, now)]
    if not late:
        return {}
    try:
        nodes = cluster.list("nodes").items
    except Refused:
        return {pod["spec"].get("nodeName", ""): False for pod in late if _lost_its_node(pod)}
    ready = {node["metadata"]["name"]: _is_ready(node) for node in nodes}
    # a node that was deleted does not answer either
    return {name: ready.get(name, False) for name in {pod["spec"].get("nodeName", "") for pod in late}}


def _is_late(pod: Document, now: datetime) -> bool:
    gone_by = pod["metadata"].get("deletionTimestamp")
    return bool(gone_by) and datetime.fromisoformat(gone_by.replace("Z", "+00:00")).astimezone(UTC) < now


def _is_ready(node: Document) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _lost_its_node(pod: Document) -> bool:
    """What the node controller writes on pods of a node that does not answer: not ready, though nobody on the node says that it ended."""
    status = pod.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return status.get("phase") == "Running" and conditions.get("Ready") == "False"
