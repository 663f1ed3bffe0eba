"""The adapter for an Argo Server: validation before sending, pods derived from nodes, conversion of the server's errors."""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.argo_server import ArgoServerCluster, connect
from orchestrator.cluster.argo_server.client import ArgoApi
from orchestrator.cluster.argo_server.nodes import pods_of
from orchestrator.cluster.argo_server.strict import unknown_fields
from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.cluster.port import Document
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_MANAGED_BY, MANAGED_BY
from orchestrator.errors import (
    AlreadyExists,
    ClusterError,
    ClusterUnavailable,
    Conflict,
    Expired,
    NotFound,
    Refused,
    ScalingStudyError,
    TokenRefused,
)
from orchestrator.reconcile.observed import LABEL_WORKFLOW, parse_pod
from tests.cluster.simulated_argo_server import SimulatedArgoServer

GOLDEN = Path(__file__).parents[1] / "golden" / "workflows.yaml"
MANAGED = {LABEL_MANAGED_BY: MANAGED_BY}


def workflow(name: str = "ss-1", **spec: Any) -> Document:
    metadata = {"name": name, "labels": dict(MANAGED)}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": {"entrypoint": "unit", **spec}}


# Validation


def test_rendered_workflows_have_no_unknown_fields() -> None:
    bodies = [body for body in yaml.safe_load_all(GOLDEN.read_text()) if body]
    assert bodies
    assert {body["metadata"]["name"]: unknown_fields(body) for body in bodies} == {body["metadata"]["name"]: [] for body in bodies}


def put(path: str, value: object) -> Callable[[Document], None]:
    """Return a function that sets the value at a path such as `spec.templates.1.name`."""

    def change(body: Document) -> None:
        *way, last = path.split(".")
        at: Any = body
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("spce", {}), 'unknown field "spce" (did you mean "spec"?)'),
        (put("metadata.lables", {}), 'unknown field "metadata.lables" (did you mean "labels"?)'),
        (put("spec.serviceaccountname", "x"), 'unknown field "spec.serviceaccountname" (did you mean "serviceAccountName"?)'),
        (put("spec.podGC.deleteDelay", "60s"), 'unknown field "spec.podGC.deleteDelay"'),
        (
            put("spec.templates.1.retryStrategy.limits", "3"),
            'unknown field "spec.templates[1].retryStrategy.limits" (did you mean "limit"?)',
        ),
        (
            put("spec.templates.1.container.resource", {}),
            'unknown field "spec.templates[1].container.resource" (did you mean "resources"?)',
        ),
        (put("spec.templates.1.container.env.0.valueForm", {}), 'unknown field "spec.templates[1].container.env[0].valueForm"'),
        (put("spec.templates", {}), '"spec.templates" must be a list'),
        (put("spec.podGC", "OnPodCompletion"), '"spec.podGC" must be an object'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_field_is_reported_with_its_path(change: Callable[[Document], None], expected: str) -> None:
    body: Document = next(body for body in yaml.safe_load_all(GOLDEN.read_text()) if body)
    change(body)
    (line,) = unknown_fields(body)
    assert line.startswith(expected)


def test_workflow_with_a_misspelt_field_is_not_sent() -> None:
    server = SimulatedArgoServer(InMemoryCluster())
    with pytest.raises(Refused, match=r'rejected before sending: unknown field "spec.paralelism" \(did you mean "parallelism"'):
        ArgoServerCluster(server, "here").create("workflows", workflow(paralelism=1))
    assert server.calls == []


# Pods


def node(**more: Any) -> Document:
    parameters = [{"name": "digest", "value": "d" * 64}, {"name": "short", "value": "d" * 32}]
    return {"id": "ss-1-42", "type": "Pod", "templateName": "train", "phase": "Running", "inputs": {"parameters": parameters}, **more}


def with_nodes(*nodes: Document, naming: str = "v2") -> Document:
    metadata = {"name": "ss-1", "namespace": "here", "annotations": {"workflows.argoproj.io/pod-name-format": naming}}
    return {"metadata": metadata, "spec": {}, "status": {"nodes": {str(number): node for number, node in enumerate(nodes)}}}


@pytest.mark.parametrize(
    ("expected", "naming", "name", "phase"),
    [
        ({}, "v2", "ss-1-train-42", "Running"),
        ({"phase": "Succeeded"}, "v1", "ss-1-42", "Succeeded"),
        ({"id": "ss-1", "phase": "Failed"}, "v2", "ss-1", "Failed"),
        ({"phase": ""}, "v2", "ss-1-train-42", "Pending"),
    ],
)
def test_pod_node_is_converted_to_a_pod(expected: Document, naming: str, name: str, phase: str) -> None:
    (pod,) = pods_of(with_nodes(node(**expected), naming=naming))
    seen = parse_pod(pod, {})
    assert (seen.name, seen.workflow, seen.digest, seen.phase) == (name, "ss-1", "d" * 32, phase)
    assert pod["metadata"]["labels"][LABEL_MANAGED_BY] == MANAGED_BY


def test_only_pod_nodes_become_pods_and_keep_their_waiting_reason() -> None:
    waiting = node(phase="Pending", message="Unschedulable: no node has 8 GPUs")
    pods = list(pods_of(with_nodes(node(type="Retry"), node(type="DAG"), waiting, node(inputs=None))))
    assert [parse_pod(pod, {}).reason for pod in pods] == ["Unschedulable: no node has 8 GPUs", ""]
    assert LABEL_DIGEST not in pods[1]["metadata"]["labels"]
    assert list(pods_of({"metadata": {"name": "ss-1"}})) == []


# The adapter


@pytest.fixture
def server() -> SimulatedArgoServer:
    return SimulatedArgoServer(InMemoryCluster())


@pytest.fixture
def cluster(server: SimulatedArgoServer) -> ArgoServerCluster:
    return ArgoServerCluster(server, "here")


def test_pods_come_from_the_preceding_listing_of_workflows(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    labels = {**MANAGED, LABEL_WORKFLOW: "ss-1", LABEL_DIGEST: "d" * 32}
    server.cluster.put("pods", {"metadata": {"name": "p", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})
    assert [body["metadata"]["name"] for body in cluster.list("workflows", MANAGED).items] == ["ss-1"]
    before = len(server.calls)
    assert [pod["metadata"]["name"] for pod in cluster.list("pods", MANAGED).items] == ["p"]
    assert len(server.calls) == before, "one listing serves both"
    assert len(cluster.list("pods", {LABEL_DIGEST: "d" * 32}).items) == 1
    assert len(server.calls) == before + 1, "each listing is used once"
    assert cluster.list("pods", {LABEL_DIGEST: "other"}).items == []


def test_listing_reads_all_pages(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    server.page = 2
    for number in range(5):
        cluster.create("workflows", workflow(f"ss-{number}"))
    assert [len(page.items) for page in cluster.pages("workflows", MANAGED)] == [2, 2, 1]
    assert len(cluster.list("workflows").items) == 5


def test_delete_does_not_delete_a_workflow_with_another_uid(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    cluster.list("workflows")
    server.cluster.remove("workflows", "ss-1")
    server.cluster.create("workflows", workflow())
    cluster.delete("workflows", "ss-1")
    assert server.cluster.get("workflows", "ss-1") is not None, "another Workflow of the same name"
    assert cluster.get("workflows", "ss-1") is not None
    cluster.delete("workflows", "ss-1")
    assert cluster.get("workflows", "ss-1") is None
    cluster.delete("workflows", "ss-1")


def test_stopping_a_finished_stopped_or_missing_workflow_does_nothing(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    cluster.stop_workflow("ss-1")
    cluster.stop_workflow("ss-1")
    server.cluster.set_status("workflows", "ss-1", {"phase": "Succeeded"})
    cluster.stop_workflow("ss-1")
    cluster.stop_workflow("missing")
    server.error = ClusterUnavailable("unreachable")
    with pytest.raises(ClusterUnavailable):
        cluster.stop_workflow("ss-1")


def test_deleting_a_pod_stops_its_workflow(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    labels = {**MANAGED, LABEL_WORKFLOW: "ss-1", LABEL_DIGEST: "d" * 32}
    server.cluster.put("pods", {"metadata": {"name": "p", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})
    cluster.list("workflows")
    cluster.delete("pods", "p")
    found = server.cluster.get("workflows", "ss-1")
    assert found is not None
    assert found["spec"]["shutdown"] == "Stop"


def test_owner_reference_is_dropped(server: SimulatedArgoServer, cluster: ArgoServerCluster) -> None:
    body = workflow()
    body["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ScalingStudy", "name": "s", "uid": "u"}]
    before = copy.deepcopy(body)
    cluster.create("workflows", body)
    found = server.cluster.get("workflows", "ss-1")
    assert found is not None
    assert "ownerReferences" not in found["metadata"]
    assert body == before


def test_dry_run_persists_nothing(cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow(), dry_run=True)
    assert cluster.get("workflows", "ss-1") is None


def test_access_to_other_kinds_is_refused(cluster: ArgoServerCluster) -> None:
    operations: list[Callable[[], object]] = [
        lambda: cluster.list("nodes"),
        lambda: cluster.create("pods", {"metadata": {"name": "p"}}),
        lambda: cluster.patch("workflows", "ss-1", {}),
        lambda: next(cluster.watch("pods", "")),
        lambda: cluster.get("nodes", "n"),
        lambda: cluster.delete("nodes", "n"),
    ]
    for operation in operations:
        with pytest.raises(Refused, match="through an Argo Server"):
            operation()


# The client, against a local HTTP server


class Responses:
    """The status and body of the next responses. `requests`: (method, path, authorization, body) of received requests."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.requests: list[tuple[str, str, str, bytes]] = []


@pytest.fixture
def responses() -> Iterator[tuple[str, Responses]]:
    received = Responses()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            received.requests.append((self.command, self.path, self.headers.get("Authorization", ""), sent))
            self.send_response(received.status)
            self.send_header("Content-Length", str(len(received.body)))
            self.end_headers()
            self.wfile.write(received.body)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", received
        server.shutdown()
        thread.join()


def error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (401, error(16, "token not valid"), TokenRefused, "rejected the token: token not valid"),
        (403, error(7, "workflows is forbidden"), Refused, "^workflows is forbidden$"),
        (400, error(3, "spec.entrypoint is required"), Refused, "entrypoint is required"),
        (404, error(5, "not found"), NotFound, "not found"),
        (409, error(6, "workflows already exists"), AlreadyExists, "already exists"),
        (409, error(10, "the object has been modified"), Conflict, "modified"),
        (410, error(11, "too old resource version: 1"), Expired, "too old"),
        (429, b"slow down", ClusterUnavailable, "slow down"),
        (503, b"<html>no upstream</html>", ClusterUnavailable, "no upstream"),
        (302, b"", ClusterUnavailable, "HTTP 302"),
    ],
)
def test_error_responses_are_converted_to_exceptions(
    responses: tuple[str, Responses], status: int, body: bytes, kind: type[ScalingStudyError], expected: str
) -> None:
    url, server = responses
    server.status, server.body = status, body
    with pytest.raises(kind, match=expected):
        ArgoApi(url, lambda: "t").request("get_workflow", namespace="here", name="ss-1")


def test_requests_have_the_packages_paths_and_the_current_token(responses: tuple[str, Responses]) -> None:
    url, server = responses
    tokens = iter(("first", "second"))
    api = ArgoApi(url + "/", lambda: next(tokens))
    api.request("list_workflows", namespace="here", list_options_limit="5", fields="metadata")
    api.request("stop_workflow", namespace="here", name="a/b", body={"name": "a/b"})
    assert server.requests == [
        ("GET", "/api/v1/workflows/here?listOptions.limit=5&fields=metadata", "Bearer first", b""),
        ("PUT", "/api/v1/workflows/here/a%2Fb/stop", "Bearer second", b'{"name": "a/b"}'),
    ]


def test_stream_yields_messages_and_raises_the_converted_error(responses: tuple[str, Responses]) -> None:
    url, server = responses
    late = {"error": {"grpc_code": 11, "http_code": 400, "message": "too old resource version: 1 (5)"}}
    server.body = b'{"result": {"content": "one"}}\n\n{"result": {"content": "two"}}\n' + json.dumps(late).encode()
    stream = ArgoApi(url, lambda: "t").stream("workflow_logs", 5, namespace="here", name="ss-1")
    assert [next(stream)["content"], next(stream)["content"]] == ["one", "two"]
    with pytest.raises(Expired):
        next(stream)
    server.status, server.body = 403, b'{"error": {"grpc_code": 7, "http_code": 403, "message": "pods is forbidden"}}'
    with pytest.raises(Refused, match="pods is forbidden"):
        next(ArgoApi(url, lambda: "t").stream("workflow_logs", 5, namespace="here", name="ss-1"))
    server.status, server.body = 200, b'{"error": {"grpc_code": 8, "http_code": 429, "message": "EOF"}}'
    assert list(ArgoApi(url, lambda: "t").stream("watch_workflows", 5, namespace="here")) == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (200, b"<html>a page</html>", ClusterError, "is not an Argo Server: .* returned 200"),
        (404, b"404 page not found", ClusterError, "is not an Argo Server: .* returned 404"),
        (403, b'{"kind": "Status", "code": 403, "message": "forbidden"}', ClusterError, "is not an Argo Server: .* returned 403"),
        (401, error(16, "token not valid"), TokenRefused, "rejected the token"),
    ],
)
def test_connecting_to_another_kind_of_server_fails(
    responses: tuple[str, Responses], status: int, body: bytes, kind: type[ScalingStudyError], expected: str
) -> None:
    url, server = responses
    server.status, server.body = status, body
    with pytest.raises(kind, match=expected):
        connect(url, "here", lambda: "t")


@pytest.mark.parametrize("url", ["argo.example.com:2746", "ftp://argo.example.com"])
def test_address_without_http_scheme_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="the URL needs http:// or https://"):
        connect(url, "here", lambda: "t")


def test_connecting_to_an_unreachable_server_fails() -> None:
    with pytest.raises(ClusterUnavailable, match="is unreachable"):
        connect("http://127.0.0.1:9", "here", lambda: "t")
