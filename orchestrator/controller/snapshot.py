"""One listing of a namespace: studies, our Workflows and pods, and whether nodes answer.

Every round of the loop begins with one, and all studies of the round are looked at with it. Bodies are dropped as soon as they are read:
a Workflow of Argo's weighs a hundred times what a decision needs of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.cluster.port import Cluster, Document, Kind
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, LABEL_MANAGED_BY, MANAGED_BY
from orchestrator.errors import Refused
from orchestrator.reconcile.observe import PodSeen, WorkflowSeen, pod_seen, workflow_seen

OURS: Mapping[str, str] = {LABEL_MANAGED_BY: MANAGED_BY}


@dataclass(slots=True)
class Snapshot:
    """`versions`: where a watch of a kind goes on. What is submitted or deleted meanwhile is told here, so that a later study sees it."""

    studies: dict[str, Document]
    workflows: dict[str, WorkflowSeen]
    pods: tuple[PodSeen, ...]
    versions: dict[Kind, str] = field(default_factory=dict)
    _by_digest: dict[str, set[str]] = field(default_factory=dict)
    _by_study: dict[str, set[str]] = field(default_factory=dict)
    _pods_of: dict[str, list[PodSeen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for workflow in self.workflows.values():
            self._index(workflow)
        for pod in self.pods:
            self._pods_of.setdefault(pod.digest, []).append(pod)

    def _index(self, workflow: WorkflowSeen) -> None:
        self._by_study.setdefault(workflow.study, set()).add(workflow.name)
        for digest in workflow.digests:
            self._by_digest.setdefault(digest, set()).add(workflow.name)

    def add(self, workflow: WorkflowSeen) -> None:
        """It was submitted, or looked at, after the listing."""
        self.workflows[workflow.name] = workflow
        self._index(workflow)

    def remove(self, workflow: str) -> None:
        """It was deleted."""
        self.workflows.pop(workflow, None)

    def own(self, study: str) -> list[WorkflowSeen]:
        """The study's Workflows."""
        return [self.workflows[name] for name in sorted(self._by_study.get(study, ())) if name in self.workflows]

    def in_flight(self, except_of: str) -> int:
        """How many Workflows of other studies are not over."""
        return sum(not workflow.is_over for workflow in self.workflows.values() if workflow.digests and workflow.study != except_of)

    def flights(self, digest: str, store: str) -> list[WorkflowSeen]:
        """Every Workflow that has this task, for results in `store`, by its label."""
        found = (self.workflows[name] for name in sorted(self._by_digest.get(digest, ())) if name in self.workflows)
        return [workflow for workflow in found if workflow.store == store]

    def pods_at(self, digest: str, store: str) -> list[PodSeen]:
        """Every pod that works, or worked, on this task, for results in `store`."""
        return [pod for pod in self._pods_of.get(digest[:DIGEST_LABEL_LENGTH], ()) if pod.store == store]

    def about(self, study: str, digests: Iterable[str], store: str) -> tuple[tuple[WorkflowSeen, ...], tuple[PodSeen, ...]]:
        """The study's own Workflows, those with any of these tasks for results in `store`, and the pods of both."""
        wanted = list(digests)
        names = set(self._by_study.get(study, ())).union(*(self._by_digest.get(digest, ()) for digest in wanted))
        there = (self.workflows[name] for name in sorted(names) if name in self.workflows)
        found = tuple(workflow for workflow in there if workflow.store == store or workflow.study == study)
        everything = {digest[:DIGEST_LABEL_LENGTH] for digest in (*wanted, *(digest for workflow in found for digest in workflow.digests))}
        return found, tuple(pod for digest in everything for pod in self._pods_of.get(digest, ()) if pod.store == store)


def take_snapshot(cluster: Cluster, now: datetime) -> Snapshot:
    """Raises ClusterError, Expired among them."""
    versions: dict[Kind, str] = {}

    def each(kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Document]:
        for page in cluster.pages(kind, labels):
            versions.setdefault(kind, page.resource_version)
            yield from page.items

    studies = {body["metadata"]["name"]: body for body in each("scalingstudies")}
    workflows = {body["metadata"]["name"]: workflow_seen(body) for body in each("workflows", OURS)}
    late: list[Document] = []
    pods = [(pod_seen(body, {}), body["spec"].get("nodeName", "")) for body in _noting(late, each("pods", OURS), now)]
    ready = _ready_nodes(cluster, late)
    return Snapshot(studies, workflows, tuple(replace(pod, node_is_ready=ready.get(node, True)) for pod, node in pods), versions)


def _noting(late: list[Document], pods: Iterable[Document], now: datetime) -> Iterator[Document]:
    """The pods; those that outlive their grace period are kept in `late`."""
    for pod in pods:
        if _is_late(pod, now):
            late.append(pod)
        yield pod


def _ready_nodes(cluster: Cluster, late: list[Document]) -> dict[str, bool]:
    """Asked only while a pod outlives its grace period, and told from such pods where a namespaced role may not see nodes."""
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
