"""Derive pods from the nodes of a Workflow, for a token that cannot list pods.

Called by `adapter` for every listed Workflow. A derived pod has only the fields that `reconcile.observed` parses. Pure.
"""

from collections.abc import Iterator, Mapping

from orchestrator.cluster.port import Document
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_MANAGED_BY, LABEL_STORE, MANAGED_BY
from orchestrator.reconcile.observed import LABEL_WORKFLOW

# Argo's annotation with the pod naming scheme of a Workflow; without it, pods have the names of their nodes
_POD_NAME_FORMAT = "workflows.argoproj.io/pod-name-format"


def pods_of(workflow: Document) -> Iterator[Document]:
    """Yield the pods of a Workflow, including those of finished attempts."""
    nodes: Mapping[str, Document] = (workflow.get("status") or {}).get("nodes") or {}
    for node in nodes.values():
        if node.get("type") == "Pod":
            yield _pod(workflow["metadata"], node)


def _pod(workflow: Document, node: Document) -> Document:
    store = (workflow.get("labels") or {}).get(LABEL_STORE, "")
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_WORKFLOW: workflow["name"], LABEL_STORE: store}
    if short := _short(node):
        labels[LABEL_DIGEST] = short
    metadata: Document = {"name": pod_name(workflow, node), "namespace": workflow.get("namespace", ""), "labels": labels}
    if node.get("startedAt"):
        metadata["creationTimestamp"] = node["startedAt"]
    return {
        "metadata": metadata,
        "spec": {},
        "status": {"phase": node.get("phase") or "Pending", "message": node.get("message") or ""},
    }


def _short(node: Document) -> str:
    parameters = (node.get("inputs") or {}).get("parameters") or []
    return next((str(entry.get("value", "")) for entry in parameters if entry.get("name") == "short"), "")


def pod_name(workflow: Document, node: Document) -> str:
    """Return Argo's name of a node's pod: Workflow, template and the hash at the end of the node's id."""
    identifier, template = str(node["id"]), node.get("templateName") or ""
    if identifier == workflow["name"] or (workflow.get("annotations") or {}).get(_POD_NAME_FORMAT) != "v2":
        return identifier
    return f"{workflow['name']}-{template}-{identifier.rpartition('-')[2]}"
