"""One listing of a namespace: studies, the Workflows and pods of studies, and the readiness of nodes.

Each round of the loop takes one and reconciles all due studies with it. API objects are parsed and dropped at once, because a Workflow
takes a hundred times the memory of the fields that decisions use.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.cluster.port import Cluster, Document, Kind
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, LABEL_MANAGED_BY, MANAGED_BY
from orchestrator.errors import Refused
from orchestrator.reconcile.observed import ObservedPod, ObservedWorkflow, parse_pod, parse_workflow

OURS: Mapping[str, str] = {LABEL_MANAGED_BY: MANAGED_BY}


@dataclass(slots=True)
class Snapshot:
    """`versions`: resource version per kind, at which watches start. Workflows submitted or deleted later are added and removed."""

    studies: dict[str, Document]
    workflows: dict[str, ObservedWorkflow]
    pods: tuple[ObservedPod, ...]
    versions: dict[Kind, str] = field(default_factory=dict)
    _by_digest: dict[str, set[str]] = field(default_factory=dict)
    _by_study: dict[str, set[str]] = field(default_factory=dict)
    _pods_of: dict[str, list[ObservedPod]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for workflow in self.workflows.values():
            self._index(workflow)
        for pod in self.pods:
            self._pods_of.setdefault(pod.digest, []).append(pod)

    def _index(self, workflow: ObservedWorkflow) -> None:
        self._by_study.setdefault(workflow.study, set()).add(workflow.name)
        for digest in workflow.digests:
            self._by_digest.setdefault(digest, set()).add(workflow.name)

    def add(self, workflow: ObservedWorkflow) -> None:
        """Add a Workflow that was submitted, or read again, after the listing."""
        self.workflows[workflow.name] = workflow
        self._index(workflow)

    def remove(self, workflow: str) -> None:
        """Remove a deleted Workflow."""
        self.workflows.pop(workflow, None)

    def workflows_of_study(self, study: str) -> list[ObservedWorkflow]:
        """Return the study's Workflows, sorted by name."""
        return [self.workflows[name] for name in sorted(self._by_study.get(study, ())) if name in self.workflows]

    def count_running_of_others(self, study: str) -> int:
        """Return the number of Workflows of other studies that have not ended."""
        return sum(not workflow.is_over for workflow in self.workflows.values() if workflow.digests and workflow.study != study)

    def workflows_of_task(self, digest: str, store: str) -> list[ObservedWorkflow]:
        """Return every Workflow that contains the task and writes to `store` (a label value)."""
        found = (self.workflows[name] for name in sorted(self._by_digest.get(digest, ())) if name in self.workflows)
        return [workflow for workflow in found if workflow.store == store]

    def pods_of_task(self, digest: str, store: str) -> list[ObservedPod]:
        """Return every pod of the task that writes to `store`."""
        return [pod for pod in self._pods_of.get(digest[:DIGEST_LABEL_LENGTH], ()) if pod.store == store]

    def related(self, study: str, digests: Iterable[str], store: str) -> tuple[tuple[ObservedWorkflow, ...], tuple[ObservedPod, ...]]:
        """Return the study's Workflows, those of other studies with any of these tasks in `store`, and the pods of both."""
        wanted = list(digests)
        names = set(self._by_study.get(study, ())).union(*(self._by_digest.get(digest, ()) for digest in wanted))
        existing = (self.workflows[name] for name in sorted(names) if name in self.workflows)
        found = tuple(workflow for workflow in existing if workflow.store == store or workflow.study == study)
        everything = {digest[:DIGEST_LABEL_LENGTH] for digest in (*wanted, *(digest for workflow in found for digest in workflow.digests))}
        return found, tuple(pod for digest in everything for pod in self._pods_of.get(digest, ()) if pod.store == store)


def take_snapshot(cluster: Cluster, now: datetime) -> Snapshot:
    """List the namespace. Raises ClusterError, including Expired."""
    versions: dict[Kind, str] = {}

    def each(kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Document]:
        for page in cluster.pages(kind, labels):
            versions.setdefault(kind, page.resource_version)
            yield from page.items

    studies = {body["metadata"]["name"]: body for body in each("scalingstudies")}
    workflows = {body["metadata"]["name"]: parse_workflow(body) for body in each("workflows", OURS)}
    late: list[Document] = []
    pods = [(parse_pod(body, {}), body["spec"].get("nodeName", "")) for body in _collect_late(late, each("pods", OURS), now)]
    ready = _ready_nodes(cluster, late)
    return Snapshot(studies, workflows, tuple(replace(pod, node_is_ready=ready.get(node, True)) for pod, node in pods), versions)


def _collect_late(late: list[Document], pods: Iterable[Document], now: datetime) -> Iterator[Document]:
    """Yield the pods, and append those that outlive their grace period to `late`."""
    for pod in pods:
        if _is_late(pod, now):
            late.append(pod)
        yield pod


def _ready_nodes(cluster: Cluster, late: list[Document]) -> dict[str, bool]:
    """Return the readiness of the nodes of late pods.

    Nodes are listed only while a pod is late. If the role may not list nodes, readiness is derived from the pods' conditions.
    """
    if not late:
        return {}
    try:
        nodes = cluster.list("nodes").items
    except Refused:
        return {pod["spec"].get("nodeName", ""): False for pod in late if _is_on_lost_node(pod)}
    ready = {node["metadata"]["name"]: _is_ready(node) for node in nodes}
    # a deleted node is not ready
    return {name: ready.get(name, False) for name in {pod["spec"].get("nodeName", "") for pod in late}}


def _is_late(pod: Document, now: datetime) -> bool:
    deadline = pod["metadata"].get("deletionTimestamp")
    return bool(deadline) and datetime.fromisoformat(deadline.replace("Z", "+00:00")).astimezone(UTC) < now


def _is_ready(node: Document) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _is_on_lost_node(pod: Document) -> bool:
    """Return whether the node controller marked the pod as not ready although it runs, as it does for pods of an unreachable node."""
    status = pod.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return status.get("phase") == "Running" and conditions.get("Ready") == "False"
