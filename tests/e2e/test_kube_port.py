"""The adapters of the `Cluster` protocol behave the same: in memory, for the API server of KUBECONFIG, and for its Argo Server.

For the latter two, the CRD is installed and a namespace is created.
"""

import contextlib
import copy
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.cluster.port import Cluster, Document, StudyReference, event_name
from orchestrator.contract.vocabulary import ACCOUNT_KIND, ANNOTATION_RETRY, API_VERSION
from orchestrator.errors import AlreadyExists, ClusterUnavailable, Conflict, Expired, NotFound, Refused
from orchestrator.reconcile.account import Account
from orchestrator.reconcile.observed import ObservedPod
from tests.controller.simulated_cluster import SPEC
from tests.e2e.argo import server_url, token_of
from tests.e2e.installation import ROOT
from tests.e2e.kubectl import Kubectl

MANAGED = {"scaling-study.dev/test": "port"}
# Not supported by the Argo Server adapter: owner references, other kinds, and watches of pods
UNSUPPORTED_BY_ARGO_SERVER = (
    "test_owned_workflow_is_deleted_with_its_study",
    "test_unscheduled_pod_is_force_deleted",
    "test_watch_from_an_old_version_expires",
)
CONTAINER = {
    "name": "main",
    "image": "localhost/none:1",
    "imagePullPolicy": "Never",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"e2e-port-{uuid.uuid4().hex[:8]}"
    Kubectl(name).run("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "manifests/base/crd.yaml"))
    for plural in ("scalingstudies", "gpuaccounts"):
        Kubectl(name).run("wait", "--for=condition=Established", f"crd/{plural}.scaling-study.dev", "--timeout=60s")
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    yield name
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def token(namespace: str) -> str:
    return token_of(Kubectl(namespace), "user")


@pytest.fixture(
    params=["memory", pytest.param("kube", marks=pytest.mark.cluster), pytest.param("argo", marks=pytest.mark.cluster)],
)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "memory":
        return InMemoryCluster(clock=_now)
    if request.param == "argo":
        from orchestrator.cluster import argo_server

        if request.node.name.partition("[")[0] in UNSUPPORTED_BY_ARGO_SERVER or "scalingstudies" in request.node.name:
            pytest.skip("not accessible with a token for Workflows")
        given = request.getfixturevalue("token")
        return argo_server.connect(server_url(), request.getfixturevalue("namespace"), lambda: given)
    from orchestrator.cluster.kubernetes_api import connect

    return connect(request.getfixturevalue("namespace"))


def _now() -> Any:
    from orchestrator.store.objects import utc_now

    return utc_now()


def name_of(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


def study(name: str, **labels: str) -> Document:
    metadata = {"name": name, "labels": {**MANAGED, **labels}}
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": metadata, "spec": copy.deepcopy(SPEC)}


def workflow(name: str, **metadata: Any) -> Document:
    template = {"name": "one", "container": {"image": "localhost/none:1", "command": ["true"]}}
    spec = {"entrypoint": "one", "templates": [template], "suspend": True}
    return {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name, "labels": MANAGED, **metadata}, "spec": spec,
    }  # fmt: skip


def status_of(phase: str) -> Document:
    return {"phase": phase, "runNumber": 1}


def test_created_object_is_found_by_name_and_labels(cluster: Cluster) -> None:
    name, mark = name_of("study"), uuid.uuid4().hex[:8]
    created = cluster.create("scalingstudies", study(name, mark=mark))
    assert created["metadata"]["uid"]
    found = cluster.get("scalingstudies", name)
    assert found is not None
    assert found["spec"] == SPEC
    assert [body["metadata"]["name"] for body in cluster.list("scalingstudies", {**MANAGED, "mark": mark}).items] == [name]
    assert cluster.list("scalingstudies", {"mark": "another"}).items == []


def test_second_object_with_the_same_name_is_rejected(cluster: Cluster) -> None:
    name = name_of("study")
    cluster.create("scalingstudies", study(name))
    with pytest.raises(AlreadyExists, match="already exists"):
        cluster.create("scalingstudies", study(name))


def test_missing_object_reads_as_none_and_cannot_be_modified(cluster: Cluster) -> None:
    assert cluster.get("workflows", "missing") is None
    assert cluster.read_config("missing") is None
    cluster.delete("workflows", "missing")
    cluster.stop_workflow("missing")
    with pytest.raises(NotFound):
        cluster.patch("scalingstudies", "missing", {"metadata": {"annotations": {"a": "b"}}})
    with pytest.raises(NotFound):
        cluster.patch_status("missing", status_of("Running"), "1")
    with pytest.raises(NotFound):
        next(cluster.logs("missing"))


def test_too_long_label_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="63 bytes"):
        cluster.create("workflows", workflow(name_of("w"), labels={"a": "x" * 64}))


@pytest.mark.parametrize("kind", ["workflows", "scalingstudies"])
def test_unknown_field_is_refused(cluster: Cluster, kind: Any) -> None:
    if isinstance(cluster, InMemoryCluster):
        cluster.admission.append(lambda _, body: "strict decoding error: unknown field" if "nonsense" in body["spec"] else None)
    body = workflow(name_of("w")) if kind == "workflows" else study(name_of("study"))
    body["spec"]["nonsense"] = 1
    with pytest.raises(Refused, match="unknown field"):
        cluster.create(kind, body)


def test_status_is_replaced_as_a_whole_and_separate_from_the_spec(cluster: Cluster) -> None:
    name = name_of("study")
    first = cluster.create("scalingstudies", {**study(name), "status": status_of("Invented")})
    assert "status" not in first
    second = cluster.patch_status(name, {**status_of("Running"), "eta": "1h"}, first["metadata"]["resourceVersion"])
    third = cluster.patch_status(name, status_of("Paused"), second["metadata"]["resourceVersion"])
    assert third["status"] == status_of("Paused")
    assert third["spec"] == SPEC
    assert third["metadata"]["generation"] == first["metadata"]["generation"]


def test_unchanged_status_keeps_the_resource_version(cluster: Cluster) -> None:
    name = name_of("study")
    first = cluster.create("scalingstudies", study(name))
    second = cluster.patch_status(name, status_of("Running"), first["metadata"]["resourceVersion"])
    again = cluster.patch_status(name, status_of("Running"), second["metadata"]["resourceVersion"])
    assert again["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_status_for_an_old_resource_version_conflicts(cluster: Cluster) -> None:
    name = name_of("study")
    first = cluster.create("scalingstudies", study(name))
    cluster.patch("scalingstudies", name, {"spec": {"paused": True}})
    with pytest.raises(Conflict):
        cluster.patch_status(name, status_of("Running"), first["metadata"]["resourceVersion"])


def test_only_changes_of_the_spec_increase_the_generation(cluster: Cluster) -> None:
    name = name_of("study")
    first = cluster.create("scalingstudies", study(name))
    annotated = cluster.patch("scalingstudies", name, {"metadata": {"annotations": {ANNOTATION_RETRY: "2"}}})
    paused = cluster.patch("scalingstudies", name, {"spec": {"paused": True}})
    assert annotated["metadata"]["generation"] == first["metadata"]["generation"]
    assert paused["metadata"]["generation"] == first["metadata"]["generation"] + 1
    assert "paused" not in cluster.patch("scalingstudies", name, {"spec": {"paused": None}})["spec"]


def test_stopping_a_workflow_twice_is_allowed(cluster: Cluster) -> None:
    name = name_of("w")
    cluster.create("workflows", workflow(name))
    cluster.stop_workflow(name)
    cluster.stop_workflow(name)
    found = cluster.get("workflows", name)
    assert found is not None
    assert found["spec"]["shutdown"] == "Stop"


def test_owned_workflow_is_deleted_with_its_study(cluster: Cluster) -> None:
    owner = cluster.create("scalingstudies", study(name_of("study")))
    reference = {
        "apiVersion": owner.get("apiVersion"), "kind": "ScalingStudy", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
    }  # fmt: skip
    owned = name_of("w")
    cluster.create("workflows", workflow(owned, ownerReferences=[reference]))
    cluster.delete("scalingstudies", owner["metadata"]["name"])
    _eventually(lambda: cluster.get("workflows", owned) is None)


def test_unscheduled_pod_is_force_deleted(cluster: Cluster) -> None:
    name = name_of("pod")
    spec = {
        "containers": [CONTAINER], "nodeSelector": {"no-such": "node"},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    cluster.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": MANAGED}, "spec": spec})
    cluster.delete("pods", name, force=True)
    _eventually(lambda: cluster.get("pods", name) is None)


def test_account_write_is_complete_and_conflicts_with_a_newer_version(cluster: Cluster) -> None:
    account = Account()
    now = _now()
    pod = ObservedPod("p", "w", "d", "Running", store="s", uid="u", host="p", study="mine", gpus=8, gpu_start=now - timedelta(seconds=90))
    account.bill_pods([pod], {}, {"mine": "uid-1"}, now)
    account.reset("a reason", now)
    name = name_of("account")
    body = {"apiVersion": API_VERSION, "kind": ACCOUNT_KIND, "metadata": {"name": name}, "spec": {}, "status": account.to_status()}
    created = cluster.create("gpuaccounts", body)
    assert Account.from_status(created["status"]).to_status() == account.to_status()
    version = created["metadata"]["resourceVersion"]
    account.bill_pods([], {}, {}, now + timedelta(seconds=60))
    patched = cluster.patch("gpuaccounts", name, {"metadata": {"resourceVersion": version}, "status": account.to_status()})
    assert patched["status"] == account.to_status()
    with pytest.raises(Conflict):
        cluster.patch("gpuaccounts", name, {"metadata": {"resourceVersion": version}, "status": Account().to_status()})


def test_repeated_event_is_counted(cluster: Cluster) -> None:
    body = cluster.create("scalingstudies", study(name_of("study")))
    about = StudyReference(body["metadata"]["name"], body["metadata"]["uid"])
    for _ in range(3):
        cluster.event(about, "CellFailed", "it failed", is_warning=True)
    cluster.event(about, "CellFailed", "another failed", is_warning=True)
    cluster.event(about, "Long", "x" * 5000)
    event = cluster.get("events", event_name(about, "CellFailed", "it failed"))
    assert event is not None
    assert (event["count"], event["type"], event["involvedObject"]["uid"]) == (3, "Warning", about.uid)
    assert cluster.get("events", event_name(about, "CellFailed", "another failed"))


def test_watch_continues_from_a_listing(cluster: Cluster) -> None:
    mark = {**MANAGED, "mark": uuid.uuid4().hex[:8]}
    name = name_of("study")
    cluster.create("scalingstudies", study(name_of("before"), **mark))
    since = cluster.list("scalingstudies", mark).resource_version
    created = cluster.create("scalingstudies", study(name, **mark))
    cluster.patch_status(name, status_of("Running"), created["metadata"]["resourceVersion"])
    cluster.delete("scalingstudies", name)
    seen = [(change, body["metadata"]["name"]) for change, body in cluster.watch("scalingstudies", since, mark, timeout_seconds=1)]
    changes = [(change, found) for change, found in seen if change != "BOOKMARK"]
    assert changes == [("ADDED", name), ("MODIFIED", name), ("DELETED", name)]


def test_open_watch_receives_changes(cluster: Cluster) -> None:
    since = cluster.list("scalingstudies").resource_version
    name, seen = name_of("study"), threading.Event()

    def look() -> None:
        with contextlib.suppress(ClusterUnavailable):
            for _, body in cluster.watch("scalingstudies", since, timeout_seconds=60):
                if body["metadata"].get("name") == name:
                    seen.set()
                    return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    cluster.create("scalingstudies", study(name))
    assert seen.wait(60)
    thread.join(60)


def test_watch_from_an_old_version_expires(cluster: Cluster) -> None:
    if isinstance(cluster, InMemoryCluster):
        cluster.create("scalingstudies", study(name_of("study")))
        cluster.compact()
    try:
        changes = list(cluster.watch("pods", "1", timeout_seconds=1))
    except Expired:
        return
    assert not isinstance(cluster, InMemoryCluster)
    assert changes, "the history since version 1 was neither sent nor refused"
    pytest.skip("this API server is so young that it still has its whole history")


def test_dropped_watch_continues_from_its_last_version() -> None:
    cluster = InMemoryCluster()
    created = cluster.create("scalingstudies", study("a"))
    changes = cluster.watch("scalingstudies", "0", timeout_seconds=60)
    assert next(changes)[1]["metadata"]["name"] == "a"
    cluster.drop_watches()
    assert list(changes) == []
    cluster.create("scalingstudies", study("b"))
    again = cluster.watch("scalingstudies", created["metadata"]["resourceVersion"], timeout_seconds=60)
    assert next(again)[1]["metadata"]["name"] == "b"


def test_lease_has_one_holder(cluster: Cluster) -> None:
    name = name_of("lease")
    assert cluster.acquire_lease(name, "mine", 60)
    assert not cluster.acquire_lease(name, "yours", 60)
    assert cluster.acquire_lease(name, "mine", 60)
    cluster.release_lease(name, "yours")
    assert not cluster.acquire_lease(name, "yours", 60)
    cluster.release_lease(name, "mine")
    assert cluster.acquire_lease(name, "yours", 60)


def test_expired_lease_is_taken_over(cluster: Cluster) -> None:
    name = name_of("lease")
    assert cluster.acquire_lease(name, "mine", 1)
    _eventually(lambda: cluster.acquire_lease(name, "yours", 1))
    assert not cluster.acquire_lease(name, "mine", 60)


@pytest.mark.cluster
def test_listing_reads_all_pages(namespace: str) -> None:
    from orchestrator.cluster.kubernetes_api import connect

    cluster = connect(namespace, page=2)
    mark = {**MANAGED, "mark": uuid.uuid4().hex[:8]}
    names = {cluster.create("scalingstudies", study(name_of("study"), **mark))["metadata"]["name"] for _ in range(5)}
    assert {body["metadata"]["name"] for body in cluster.list("scalingstudies", mark).items} == names


@pytest.mark.cluster
def test_unreachable_api_server_raises_unavailable() -> None:
    from kubernetes import client

    from orchestrator.cluster.kubernetes_api import KubernetesCluster

    settings = client.Configuration(host="http://127.0.0.1:9")
    settings.retries = False
    cluster = KubernetesCluster(client.ApiClient(settings), "none")
    with pytest.raises(ClusterUnavailable, match="is unreachable"):
        cluster.list("pods")
    with pytest.raises(ClusterUnavailable, match="is unreachable"):
        next(cluster.watch("pods", "1"))


def _eventually(holds: Any) -> None:
    """Wait up to two minutes for a condition."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.3)
