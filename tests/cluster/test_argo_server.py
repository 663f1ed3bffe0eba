"""The adapter over Argo Server: strictness before sending, pods from nodes, the server's words as our errors."""

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
    NotThere,
    Refused,
    ScalingStudyError,
    TokenRefused,
)
from orchestrator.reconcile.observe import LABEL_WORKFLOW, pod_seen
from tests.cluster.simulated_argo_server import PlayedServer

GOLDEN = Path(__file__).parents[1] / "golden" / "workflows.yaml"
OURS = {LABEL_MANAGED_BY: MANAGED_BY}


def workflow(name: str = "ss-1", **spec: Any) -> Document:
    metadata = {"name": name, "labels": dict(OURS)}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": {"entrypoint": "unit", **spec}}


# Strictness


def test_every_workflow_that_we_build_is_known_field_by_field() -> None:
    bodies = [body for body in yaml.safe_load_all(GOLDEN.read_text()) if body]
    assert bodies
    assert {body["metadata"]["name"]: unknown_fields(body) for body in bodies} == {body["metadata"]["name"]: [] for body in bodies}


def put(path: str, value: object) -> Callable[[Document], None]:
    """Writes a value deep inside: `spec.templates.1.name`."""

    def change(body: Document) -> None:
        *way, last = path.split(".")
        at: Any = body
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
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
def test_a_field_that_argo_does_not_know_is_named(change: Callable[[Document], None], told: str) -> None:
    body: Document = next(body for body in yaml.safe_load_all(GOLDEN.read_text()) if body)
    change(body)
    (line,) = unknown_fields(body)
    assert line.startswith(told)


def test_a_misspelt_field_is_refused_before_it_is_sent() -> None:
    server = PlayedServer(InMemoryCluster())
    with pytest.raises(Refused, match=r'refused before it is sent: unknown field "spec.paralelism" \(did you mean "parallelism"'):
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
    ("told", "naming", "name", "phase"),
    [
        ({}, "v2", "ss-1-train-42", "Running"),
        ({"phase": "Succeeded"}, "v1", "ss-1-42", "Succeeded"),
        ({"id": "ss-1", "phase": "Failed"}, "v2", "ss-1", "Failed"),
        ({"phase": ""}, "v2", "ss-1-train-42", "Pending"),
    ],
)
def test_a_node_of_a_pod_is_a_pod(told: Document, naming: str, name: str, phase: str) -> None:
    (pod,) = pods_of(with_nodes(node(**told), naming=naming))
    seen = pod_seen(pod, {})
    assert (seen.name, seen.workflow, seen.digest, seen.phase) == (name, "ss-1", "d" * 32, phase)
    assert pod["metadata"]["labels"][LABEL_MANAGED_BY] == MANAGED_BY


def test_nodes_that_are_no_pods_are_none_and_a_pod_says_why_it_waits() -> None:
    waiting = node(phase="Pending", message="Unschedulable: no node has 8 GPUs")
    pods = list(pods_of(with_nodes(node(type="Retry"), node(type="DAG"), waiting, node(inputs=None))))
    assert [pod_seen(pod, {}).reason for pod in pods] == ["Unschedulable: no node has 8 GPUs", ""]
    assert LABEL_DIGEST not in pods[1]["metadata"]["labels"]
    assert list(pods_of({"metadata": {"name": "ss-1"}})) == []


# The adapter


@pytest.fixture
def server() -> PlayedServer:
    return PlayedServer(InMemoryCluster())


@pytest.fixture
def cluster(server: PlayedServer) -> ArgoServerCluster:
    return ArgoServerCluster(server, "here")


def test_pods_belong_to_the_listing_of_workflows_before_them(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    labels = {**OURS, LABEL_WORKFLOW: "ss-1", LABEL_DIGEST: "d" * 32}
    server.cluster.put("pods", {"metadata": {"name": "p", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})
    assert [body["metadata"]["name"] for body in cluster.list("workflows", OURS).items] == ["ss-1"]
    before = len(server.calls)
    assert [pod["metadata"]["name"] for pod in cluster.list("pods", OURS).items] == ["p"]
    assert len(server.calls) == before, "one listing serves both"
    assert len(cluster.list("pods", {LABEL_DIGEST: "d" * 32}).items) == 1
    assert len(server.calls) == before + 1, "and each is used once"
    assert cluster.list("pods", {LABEL_DIGEST: "other"}).items == []


def test_a_listing_has_all_pages_of_a_server_that_makes_some(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    server.page = 2
    for number in range(5):
        cluster.create("workflows", workflow(f"ss-{number}"))
    assert [len(page.items) for page in cluster.pages("workflows", OURS)] == [2, 2, 1]
    assert len(cluster.list("workflows").items) == 5


def test_only_the_workflow_that_was_listed_is_deleted(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    cluster.list("workflows")
    server.cluster.remove("workflows", "ss-1")
    server.cluster.create("workflows", workflow())
    cluster.delete("workflows", "ss-1")
    assert server.cluster.get("workflows", "ss-1") is not None, "another one of that name"
    assert cluster.get("workflows", "ss-1") is not None
    cluster.delete("workflows", "ss-1")
    assert cluster.get("workflows", "ss-1") is None
    cluster.delete("workflows", "ss-1")


def test_a_workflow_that_is_over_stopped_or_gone_may_be_stopped(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    cluster.stop_workflow("ss-1")
    cluster.stop_workflow("ss-1")
    server.cluster.set_status("workflows", "ss-1", {"phase": "Succeeded"})
    cluster.stop_workflow("ss-1")
    cluster.stop_workflow("missing")
    server.trouble = ClusterUnavailable("away")
    with pytest.raises(ClusterUnavailable):
        cluster.stop_workflow("ss-1")


def test_a_pod_is_restarted_by_stopping_its_workflow(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow())
    labels = {**OURS, LABEL_WORKFLOW: "ss-1", LABEL_DIGEST: "d" * 32}
    server.cluster.put("pods", {"metadata": {"name": "p", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})
    cluster.list("workflows")
    cluster.delete("pods", "p")
    found = server.cluster.get("workflows", "ss-1")
    assert found is not None
    assert found["spec"]["shutdown"] == "Stop"


def test_the_owner_that_no_cluster_has_is_left_out(server: PlayedServer, cluster: ArgoServerCluster) -> None:
    body = workflow()
    body["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ScalingStudy", "name": "s", "uid": "u"}]
    before = copy.deepcopy(body)
    cluster.create("workflows", body)
    found = server.cluster.get("workflows", "ss-1")
    assert found is not None
    assert "ownerReferences" not in found["metadata"]
    assert body == before


def test_a_dry_run_keeps_nothing(cluster: ArgoServerCluster) -> None:
    cluster.create("workflows", workflow(), dry_run=True)
    assert cluster.get("workflows", "ss-1") is None


def test_what_the_token_does_not_reach_is_refused(cluster: ArgoServerCluster) -> None:
    asked: list[Callable[[], object]] = [
        lambda: cluster.list("nodes"),
        lambda: cluster.create("pods", {"metadata": {"name": "p"}}),
        lambda: cluster.patch("workflows", "ss-1", {}),
        lambda: next(cluster.watch("pods", "")),
        lambda: cluster.get("nodes", "n"),
        lambda: cluster.delete("nodes", "n"),
    ]
    for ask in asked:
        with pytest.raises(Refused, match=r"through an Argo Server|out of reach"):
            ask()


# The client, against something that speaks HTTP


class Answers:
    """What a server says to the next requests: (status, body); `asked`: (method, path, authorization, body)."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.asked: list[tuple[str, str, str, bytes]] = []


@pytest.fixture
def answers() -> Iterator[tuple[str, Answers]]:
    told = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told.asked.append((self.command, self.path, self.headers.get("Authorization", ""), sent))
            self.send_response(told.status)
            self.send_header("Content-Length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", told
        server.shutdown()
        thread.join()


def error(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (401, error(16, "token not valid"), TokenRefused, "does not know the token: token not valid"),
        (403, error(7, "workflows is forbidden"), Refused, "^workflows is forbidden$"),
        (400, error(3, "spec.entrypoint is required"), Refused, "entrypoint is required"),
        (404, error(5, "not found"), NotThere, "not found"),
        (409, error(6, "workflows already exists"), AlreadyExists, "already exists"),
        (409, error(10, "the object has been modified"), Conflict, "modified"),
        (410, error(11, "too old resource version: 1"), Expired, "too old"),
        (429, b"slow down", ClusterUnavailable, "slow down"),
        (503, b"<html>no upstream</html>", ClusterUnavailable, "no upstream"),
        (302, b"", ClusterUnavailable, "HTTP 302"),
    ],
)
def test_the_words_of_the_server_are_errors_of_ours(
    answers: tuple[str, Answers], status: int, body: bytes, kind: type[ScalingStudyError], told: str
) -> None:
    url, server = answers
    server.status, server.body = status, body
    with pytest.raises(kind, match=told):
        ArgoApi(url, lambda: "t").ask("get_workflow", namespace="here", name="ss-1")


def test_a_request_has_the_packages_path_and_names_and_the_token_of_the_moment(answers: tuple[str, Answers]) -> None:
    url, server = answers
    tokens = iter(("first", "second"))
    api = ArgoApi(url + "/", lambda: next(tokens))
    api.ask("list_workflows", namespace="here", list_options_limit="5", fields="metadata")
    api.ask("stop_workflow", namespace="here", name="a/b", body={"name": "a/b"})
    assert server.asked == [
        ("GET", "/api/v1/workflows/here?listOptions.limit=5&fields=metadata", "Bearer first", b""),
        ("PUT", "/api/v1/workflows/here/a%2Fb/stop", "Bearer second", b'{"name": "a/b"}'),
    ]


def test_a_stream_is_read_message_by_message_and_its_error_is_ours(answers: tuple[str, Answers]) -> None:
    url, server = answers
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
    ("status", "body", "kind", "told"),
    [
        (200, b"<html>a page</html>", ClusterError, "is no Argo Server: it answers 200"),
        (404, b"404 page not found", ClusterError, "is no Argo Server: it answers 404"),
        (403, b'{"kind": "Status", "code": 403, "message": "forbidden"}', ClusterError, "is no Argo Server: it answers 403"),
        (401, error(16, "token not valid"), TokenRefused, "does not know the token"),
    ],
)
def test_who_is_no_argo_server_is_told_at_once(
    answers: tuple[str, Answers], status: int, body: bytes, kind: type[ScalingStudyError], told: str
) -> None:
    url, server = answers
    server.status, server.body = status, body
    with pytest.raises(kind, match=told):
        connect(url, "here", lambda: "t")


@pytest.mark.parametrize("url", ["argo.example.com:2746", "ftp://argo.example.com"])
def test_an_address_that_is_no_url_is_told(url: str) -> None:
    with pytest.raises(Refused, match="write http:// or https://"):
        connect(url, "here", lambda: "t")


def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        connect("http://127.0.0.1:9", "here", lambda: "t")
