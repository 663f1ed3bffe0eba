"""A study run through the real Argo Server, with a token that may use Workflows and nothing else."""

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
from orchestrator.contract.vocabulary import LABEL_MANAGED_BY, LABEL_STUDY, MANAGED_BY, ExitCode
from orchestrator.errors import ClusterError, NotThere, Refused, TokenRefused
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import LeaseBody, history
from tests.e2e.argo import server_url, token_of
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.small_study import SmallStudy, make_study

pytestmark = pytest.mark.cluster

OURS = {LABEL_MANAGED_BY: MANAGED_BY}
# Another than those of the session's other studies: what they have done would be done here too
SEED = 21
# Seconds; an idle machine needs a tenth of it
TIME_FOR_ALL = 600


@pytest.fixture(scope="module")
def url() -> str:
    return server_url()


@pytest.fixture(scope="module")
def token(kubectl: Kubectl) -> str:
    return token_of(kubectl, "person")


@pytest.fixture(scope="module")
def mine(root: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_study(tmp_path_factory.mktemp("mine"), "by-token", root, seeds=(SEED,), tokens="256K", image=trainer_image)


class Door:
    """A way to the server that can be shut: connections break off and none is let in until it opens again."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.is_shut = False
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._let_in, daemon=True).start()

    def shut(self) -> None:
        self.is_shut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut()
        self._listening.close()

    def _let_in(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                if self.is_shut:
                    caller.close()
                    continue
                server = socket.create_connection(self._target)
                self._open += [caller, server]
                for one, other in ((caller, server), (server, caller)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def a_run(study: SmallStudy, url: str, kubectl: Kubectl, token: str, folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """The command as a person types it, who has the token, the store's credentials and nothing else."""
    words = ["run", str(study.file), "--argo-server", url, "-n", kubectl.namespace, "--no-tracking", "--plain", "--out", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env={**environment, "ARGO_TOKEN": f"Bearer {token}"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def leases(study: SmallStudy, *, train: bool) -> dict[str, list[LeaseBody]]:
    """Every attempt at the study's tasks, by digest."""
    tasks = [task for task in study.opened.plan.tasks.values() if (task.kind == "train") is train]
    found = {task.digest: history(study.store, work_root(task.kind, task.work)) for task in tasks}
    return {digest: [lease for lease in attempts if lease.digest == digest] for digest, attempts in found.items()}


def at_work(study: SmallStudy) -> LeaseBody | None:
    """A train task that has taken up its work and has not ended."""
    bodies = [attempts[-1] for attempts in leases(study, train=True).values() if attempts]
    return next((body for body in bodies if body.ended is None and body.took_up), None)


def workflows(kubectl: Kubectl, study: str) -> set[str]:
    return {body["metadata"]["name"] for body in kubectl.json("get", "workflows", "-l", f"{LABEL_STUDY}={study}")["items"]}


def test_killed_stopped_and_cut_off_a_study_ends_like_a_run_on_this_machine(
    mine: SmallStudy, url: str, kubectl: Kubectl, token: str, tmp_path: Path
) -> None:
    here = ThreadPoolExecutor(1).submit(mine.run_here, tmp_path)
    with a_run(mine, url, kubectl, token, tmp_path):
        eventually(lambda: at_work(mine), "a model is being trained", TIME_FOR_ALL)
    before = workflows(kubectl, "by-token")

    with a_run(mine, url, kubectl, token, tmp_path) as second:
        first_line = second.stdout.readline() if second.stdout else ""
        assert eventually(lambda: at_work(mine), "it is trained on", TIME_FOR_ALL)
        assert workflows(kubectl, "by-token") == before, "the killed run left it at work, and the next does not submit it again"
        second.send_signal(signal.SIGINT)
        told, _ = second.communicate(timeout=TIME_FOR_ALL)
        told = first_line + told
        assert second.returncode == 75, told
    assert "stopping: Workflows are asked to stop" in told
    assert f"Stopped. What is done is kept; to go on: scaling-study run {mine.file} --argo-server {url}" in told
    assert token not in told
    ends = [attempts[-1].ended for attempts in leases(mine, train=True).values() if attempts]
    assert [end.code for end in ends if end is not None] == [ExitCode.STOPPED], "it waited for its pod, which wrote a checkpoint"

    with closing(Door(url)) as door, a_run(mine, door.url, kubectl, token, tmp_path) as third:
        eventually(lambda: len(workflows(kubectl, "by-token")) > len(before), "it is submitted again", TIME_FOR_ALL)
        door.shut()
        eventually(lambda: at_work(mine), "it goes on without us", TIME_FOR_ALL)
        door.is_shut = False
        told, _ = third.communicate(timeout=TIME_FOR_ALL)
        assert third.returncode == 0, told
    assert "does not answer" in told
    assert "report: file://" in told
    assert mine.results() == here.result()
    assert {len(attempts) for attempts in leases(mine, train=False).values()} == {1}, "no task was done twice"
    assert sorted(len(attempts) for attempts in leases(mine, train=True).values()) == [1, 2]


def test_a_field_that_the_server_would_drop_is_refused_before(mine: SmallStudy, url: str, kubectl: Kubectl, token: str) -> None:
    body = mine.workflow(mine.train_units()[0], kubectl.namespace, run_number=999)
    body["spec"]["paralelism"] = 1
    api = ArgoApi(url, lambda: token)
    made = api.ask("create_workflow", namespace=kubectl.namespace, body={"workflow": body, "serverDryRun": True})
    assert "paralelism" not in made["spec"], "not a word about it"
    cluster = connect(url, kubectl.namespace, lambda: token)
    with pytest.raises(Refused, match=r'unknown field "spec\.paralelism"'):
        cluster.create("workflows", body, dry_run=True)
    del body["spec"]["paralelism"]
    sent = cluster.create("workflows", body, dry_run=True)
    assert _is_within(body["spec"], sent["spec"]), "nothing of a good one is lost"
    assert cluster.get("workflows", body["metadata"]["name"]) is None


def _is_within(given: object, found: object) -> bool:
    if isinstance(given, dict):
        return isinstance(found, dict) and all(key in found and _is_within(value, found[key]) for key, value in given.items())
    if isinstance(given, list):
        return isinstance(found, list) and len(given) == len(found) and all(map(_is_within, given, found))
    return given == found or (given in (False, {}) and found is None)


def test_the_log_of_a_pod_is_read_with_the_right_to_it(mine: SmallStudy, url: str, kubectl: Kubectl, token: str) -> None:
    kubectl.create(
        {
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
            "metadata": {"name": "says", "labels": OURS},
            "spec": {
                "entrypoint": "say", "serviceAccountName": "scaling-study-trainer", "automountServiceAccountToken": False,
                "executor": {"serviceAccountName": "scaling-study-executor"},
                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "templates": [{"name": "say", "container": {
                    "image": mine.execution.image, "command": ["sh", "-c", "echo one; echo two"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }}],
            },
        }
    )  # fmt: skip
    kubectl.finished("says")
    reader = token_of(kubectl, "reader", logs=True)
    cluster = connect(url, kubectl.namespace, lambda: reader)
    (pod,) = (pod for pod in cluster.list("pods").items if pod["metadata"]["name"].startswith("says"))
    assert [line for line in cluster.logs(pod["metadata"]["name"]) if line in ("one", "two")] == ["one", "two"], "beside Argo's own"
    with pytest.raises(NotThere):
        next(cluster.logs("missing"))
    refused = connect(url, kubectl.namespace, lambda: token)
    with pytest.raises(Refused, match="forbidden"):
        list(refused.logs(pod["metadata"]["name"]))


def test_who_may_not_is_told_what_is_missing(url: str, kubectl: Kubectl, token: str) -> None:
    with pytest.raises(TokenRefused, match="does not know the token"):
        connect(url, kubectl.namespace, lambda: "not.a.token")
    with pytest.raises(Refused, match=r"may not list Workflows in namespace 'nowhere'[^\n]*\n[^\n]*Check the name of the namespace"):
        connect(url, "nowhere", lambda: token)
    other = kubectl.run("create", "token", "scaling-study-trainer").strip()
    with pytest.raises(Refused, match="may not list Workflows"):
        connect(url, kubectl.namespace, lambda: other)
    with pytest.raises(ClusterError, match="is no Argo Server"):
        connect(os.environ["AWS_ENDPOINT_URL"], kubectl.namespace, lambda: token)
