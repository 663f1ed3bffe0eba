"""Simulated Argo Server in front of a simulated namespace: offers only Workflows, with nodes instead of pods."""

import time
from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.cluster.port import Document
from orchestrator.contract.vocabulary import LABEL_DIGEST
from orchestrator.errors import ClusterUnavailable, NotFound, Refused, ScalingStudyError
from orchestrator.reconcile.observed import LABEL_WORKFLOW

FINISHED = ("Succeeded", "Failed", "Error")


class SimulatedArgoServer:
    """Double of `ArgoApi`. `error`: raised by every call while it is set. `log_error`: raised by `workflow_logs`. `page`: page size.

    `calls`: (method, name of the Workflow) in call order.
    """

    def __init__(self, cluster: InMemoryCluster) -> None:
        self.error: ScalingStudyError | None = None
        self.log_error: ScalingStudyError | None = None
        self.page = 1000
        self.calls: list[tuple[str, str]] = []
        self.cluster = cluster
        self._nodes: dict[str, dict[str, Document]] = {}

    def request(self, call: str, **parameters: Any) -> Document:
        body = parameters.get("body") or {}
        self.calls.append((call, str(parameters.get("name") or (body.get("workflow") or {}).get("metadata", {}).get("name", ""))))
        if self.error is not None:
            raise self.error
        found: Document = getattr(self, call)(parameters)
        return found

    def stream(self, call: str, read_seconds: float | None, **parameters: Any) -> Iterator[Document]:  # noqa: ARG002
        if self.error is not None:
            raise ClusterUnavailable(str(self.error))
        if call == "workflow_logs" and self.log_error is not None:
            raise self.log_error
        if call == "workflow_logs":
            yield from ({"content": line, "podName": parameters["pod_name"]} for line in self.cluster.logs(parameters["pod_name"]))
        time.sleep(0.05)

    def submitted(self) -> list[str]:
        """Return the names of the submitted Workflows."""
        return [name for call, name in self.calls if call == "create_workflow"]

    # The methods of the package's WorkflowServiceApi

    def list_workflows(self, parameters: Document) -> Document:
        selector = dict(pair.split("=") for pair in parameters.get("list_options_label_selector", "").split(",") if pair)
        items = [self._with_nodes(body) for body in self.cluster.list("workflows", selector).items]
        first = int(parameters.get("list_options_continue", "0"))
        rest = first + self.page
        metadata = {"resourceVersion": "1", **({"continue": str(rest)} if rest < len(items) else {})}
        return {"metadata": metadata, "items": items[first:rest] or None}

    def get_workflow(self, parameters: Document) -> Document:
        body = self.cluster.get("workflows", parameters["name"])
        if body is None:
            raise NotFound(f"workflows {parameters['name']!r} not found")
        return self._with_nodes(body)

    def create_workflow(self, parameters: Document) -> Document:
        return self.cluster.create("workflows", parameters["body"]["workflow"], dry_run=parameters["body"].get("serverDryRun", False))

    def stop_workflow(self, parameters: Document) -> Document:
        body = self.get_workflow(parameters)
        if (body.get("status") or {}).get("phase") in FINISHED:
            raise Refused("cannot shutdown a completed workflow")
        self.cluster.stop_workflow(parameters["name"])
        return body

    def delete_workflow(self, parameters: Document) -> Document:
        self.get_workflow(parameters)
        self.cluster.delete("workflows", parameters["name"])
        return {}

    def _with_nodes(self, body: Document) -> Document:
        """Add nodes to a Workflow. As in Argo, all nodes of a finished Workflow have its phase; other removed pods have succeeded."""
        name, phase = body["metadata"]["name"], (body.get("status") or {}).get("phase", "")
        nodes = self._nodes.setdefault(name, {})
        pods = {pod["metadata"]["name"]: pod for pod in self.cluster.list("pods", {LABEL_WORKFLOW: name}).items}
        for pod_name, pod in pods.items():
            parameters = [{"name": "short", "value": pod["metadata"]["labels"][LABEL_DIGEST]}]
            status = {"phase": pod["status"]["phase"], "message": pod["status"].get("message", "")}
            nodes[pod_name] = {"id": pod_name, "type": "Pod", "inputs": {"parameters": parameters}, **status}
        for pod_name, node in nodes.items():
            if pod_name not in pods or phase in FINISHED:
                node["phase"] = phase if phase in FINISHED else "Succeeded"
        return {**body, "status": {**(body.get("status") or {}), "nodes": nodes}}
