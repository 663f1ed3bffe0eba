"""A study run through the real Argo Server, with a token that may only use Workflows."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.cluster.argo_server import connect
from orchestrator.cluster.argo_server.client import ArgoApi
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import LABEL_MANAGED_BY, LABEL_STUDY, MANAGED_BY
from orchestrator.errors import ClusterError, NotFound, Refused, TokenRefused
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import LeaseBody, history
from tests.e2e.argo import server_url, token_of
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.small_study import SmallStudy, make_study

pytestmark = pytest.mark.cluster

MANAGED = {LABEL_MANAGED_BY: MANAGED_BY}
# Not used by the session's other studies, whose records would be reused here
SEED = 21
# Timeout in seconds; an idle machine needs a tenth of it
TIMEOUT = 600


@pytest.fixture(scope="module")
def url() -> str:
    return server_url()


@pytest.fixture(scope="module")
def token(kubectl: Kubectl) -> str:
    return token_of(kubectl, "user")


@pytest.fixture(scope="module")
def mine(root: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_study(tmp_path_factory.mktemp("mine"), "by-token", root, seeds=(SEED,), tokens="256K", image=trainer_image)


class Proxy:
    """Proxy to the server that can be closed: it then drops all connections and rejects new ones until it is reopened."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.is_closed = False
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_connections(self) -> None:
        self.is_closed = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.drop_connections()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                if self.is_closed:
                    caller.close()
                    continue
                server = socket.create_connection(self._target)
                self._open += [caller, server]
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(target=_forward, args=(one, other), daemon=True).start()


def _forward(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_command(study: SmallStudy, url: str, kubectl: Kubectl, token: str, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """Start the command as a user who has only the token and the store's credentials."""
    arguments = ["run", str(study.file), "--argo-server", url, "-n", kubectl.namespace, "--no-tracking", "--plain", "--out", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env={**environment, "ARGO_TOKEN": f"Bearer {token}"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def leases(study: SmallStudy, *, train: bool) -> dict[str, list[LeaseBody]]:
    """Return the leases of the study's tasks by digest."""
    tasks = [task for task in study.opened.plan.tasks.values() if (task.kind == "train") is train]
    found = {task.digest: history(study.store, work_root(task.kind, task.work)) for task in tasks}
    return {digest: [lease for lease in attempts if lease.digest == digest] for digest, attempts in found.items()}


def running_lease(study: SmallStudy) -> LeaseBody | None:
    """Return the lease of a running train task, or None."""
    bodies = [attempts[-1] for attempts in leases(study, train=True).values() if attempts]
    return next((body for body in bodies if body.ended is None and body.took_up), None)


def workflows(kubectl: Kubectl, study: str) -> set[str]:
    return {body["metadata"]["name"] for body in kubectl.json("get", "workflows", "-l", f"{LABEL_STUDY}={study}")["items"]}


def test_killed_stopped_and_disconnected_run_equals_local_run(
    mine: SmallStudy, url: str, kubectl: Kubectl, token: str, tmp_path: Path
) -> None:
    here = ThreadPoolExecutor(1).submit(mine.run_here, tmp_path)
    with running_command(mine, url, kubectl, token, tmp_path):
        eventually(lambda: running_lease(mine), "a model is being trained", TIMEOUT)
    before = workflows(kubectl, "by-token")

    with running_command(mine, url, kubectl, token, tmp_path) as second:
        first_line = second.stdout.readline() if second.stdout else ""
        assert eventually(lambda: running_lease(mine), "training continues", TIMEOUT)
        assert workflows(kubectl, "by-token") == before, "the Workflow of the killed run continues and is not submitted again"
        second.send_signal(signal.SIGINT)
        output, _ = second.communicate(timeout=TIMEOUT)
        output = first_line + output
        assert second.returncode == 75, output
    assert "stopping: Workflows are being stopped" in output
    assert f"Stopped. Completed tasks are kept; to resume: scaling-study run {mine.file} --argo-server {url}" in output
    assert token not in output
    ends = [attempts[-1].ended for attempts in leases(mine, train=True).values() if attempts]
    assert [end.code for end in ends if end is not None] == [ExitCode.STOPPED], "the command waited for its pod, which wrote a checkpoint"

    with closing(Proxy(url)) as proxy, running_command(mine, proxy.url, kubectl, token, tmp_path) as third:
        eventually(lambda: len(workflows(kubectl, "by-token")) > len(before), "it is submitted again", TIMEOUT)
        proxy.drop_connections()
        eventually(lambda: running_lease(mine), "training continues without a connection", TIMEOUT)
        proxy.is_closed = False
        output, _ = third.communicate(timeout=TIMEOUT)
        assert third.returncode == 0, output
    assert "is unreachable" in output
    assert "report: file://" in output
    assert mine.results() == here.result()
    assert {len(attempts) for attempts in leases(mine, train=False).values()} == {1}, "no prepare or evaluate task ran twice"
    assert sorted(len(attempts) for attempts in leases(mine, train=True).values()) == [1, 2]


def test_field_that_the_server_would_drop_is_rejected_before_sending(mine: SmallStudy, url: str, kubectl: Kubectl, token: str) -> None:
    body = mine.workflow(mine.train_units()[0], kubectl.namespace, run_number=999)
    body["spec"]["paralelism"] = 1
    api = ArgoApi(url, lambda: token)
    made = api.request("create_workflow", namespace=kubectl.namespace, body={"workflow": body, "serverDryRun": True})
    assert "paralelism" not in made["spec"], "the server drops the field without an error"
    cluster = connect(url, kubectl.namespace, lambda: token)
    with pytest.raises(Refused, match=r'unknown field "spec\.paralelism"'):
        cluster.create("workflows", body, dry_run=True)
    del body["spec"]["paralelism"]
    sent = cluster.create("workflows", body, dry_run=True)
    assert _is_within(body["spec"], sent["spec"]), "the server keeps all fields of a valid Workflow"
    assert cluster.get("workflows", body["metadata"]["name"]) is None


def _is_within(given: object, found: object) -> bool:
    if isinstance(given, dict):
        return isinstance(found, dict) and all(key in found and _is_within(value, found[key]) for key, value in given.items())
    if isinstance(given, list):
        return isinstance(found, list) and len(given) == len(found) and all(map(_is_within, given, found))
    return given == found or (given in (False, {}) and found is None)


def test_pod_log_needs_its_own_permission(mine: SmallStudy, url: str, kubectl: Kubectl, token: str) -> None:
    kubectl.create(
        {
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "printer", "labels": MANAGED},
            "spec": {
                "entrypoint": "print", "serviceAccountName": "scaling-study-trainer", "automountServiceAccountToken": False,
                "executor": {"serviceAccountName": "scaling-study-executor"},
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "templates": [{"name": "print", "container": {
                    "image": mine.execution.image, "command": ["sh", "-c", "echo one; echo two"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }}],
            },
        }
    )  # fmt: skip
    kubectl.finished("printer")
    reader = token_of(kubectl, "reader", logs=True)
    cluster = connect(url, kubectl.namespace, lambda: reader)
    (pod,) = (pod for pod in cluster.list("pods").items if pod["metadata"]["name"].startswith("printer"))
    assert [line for line in cluster.logs(pod["metadata"]["name"]) if line in ("one", "two")] == ["one", "two"], "among Argo's lines"
    with pytest.raises(NotFound):
        next(cluster.logs("missing"))
    refused = connect(url, kubectl.namespace, lambda: token)
    with pytest.raises(Refused, match="forbidden"):
        list(refused.logs(pod["metadata"]["name"]))


def test_missing_permission_is_named_in_the_error(url: str, kubectl: Kubectl, token: str) -> None:
    with pytest.raises(TokenRefused, match="rejected the token"):
        connect(url, kubectl.namespace, lambda: "not.a.token")
    with pytest.raises(Refused, match=r"may not list Workflows in namespace 'nowhere'[^\n]*\n[^\n]*Check the name of the namespace"):
        connect(url, "nowhere", lambda: token)
    other = kubectl.run("create", "token", "scaling-study-trainer").strip()
    with pytest.raises(Refused, match="may not list Workflows"):
        connect(url, kubectl.namespace, lambda: other)
    with pytest.raises(ClusterError, match="is not an Argo Server"):
        connect(os.environ["AWS_ENDPOINT_URL"], kubectl.namespace, lambda: token)
