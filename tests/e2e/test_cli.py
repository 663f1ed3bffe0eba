"""A study on a real cluster with the command line only, as a researcher uses it: `scaling-study` and `kubectl sstudy`.

The controller is a local process; pods, Argo and the store are the cluster's.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from orchestrator.monitor.status_reader import StatusReader
from orchestrator.store.objects import utc_now
from tests.e2e.installation import install, uninstall
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.small_study import SmallStudy, make_study

pytestmark = pytest.mark.cluster

PYTHON: Final = Path(sys.executable)
SEED: Final = 71
"""Not used by other tests, whose records in the shared store would be reused."""
RESEARCHER: Final = "scaling-study-researcher"


class CommandLine:
    """Runs the command line for one namespace in subprocesses."""

    def __init__(self, kubectl: Kubectl, environment: Mapping[str, str]) -> None:
        self.kubectl = kubectl
        self._environment = {**environment, "PATH": f"{PYTHON.parent}:{environment['PATH']}", "NO_COLOR": "1"}

    def run(self, *words: str, expect: int | None = 0, plugin: bool = False) -> str:
        """Return standard output and error. `expect`: the exit code, None for any."""
        program = ["kubectl", "sstudy"] if plugin else ["scaling-study"]
        done = subprocess.run(
            [*program, *words, "-n", self.kubectl.namespace],
            capture_output=True, text=True, timeout=240, check=False, env=self._environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert expect is None or done.returncode == expect, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def phase(self, study: str) -> str:
        return str(self.kubectl.json("get", "sstudy", study).get("status", {}).get("phase", ""))


@pytest.fixture(scope="module")
def kubectl(environment: None) -> Iterator[Kubectl]:  # noqa: ARG001
    """A new namespace with a controller that runs locally."""
    namespace = f"e2e-cli-{uuid.uuid4().hex[:6]}"
    kubectl = install(namespace, controller=False)
    command = [sys.executable, "-m", "orchestrator.controller", "--namespace", namespace, "--alone", "--port", "0"]
    controller = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    yield kubectl
    controller.terminate()
    controller.wait(60)
    uninstall(namespace)


@pytest.fixture(scope="module")
def command_line(kubectl: Kubectl) -> CommandLine:
    return CommandLine(kubectl, os.environ)


@pytest.fixture(scope="module")
def study(root: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_study(tmp_path_factory.mktemp("cli"), "from-the-command-line", root, seeds=(SEED,), tokens="512K")


def broken(study: SmallStudy, folder: Path) -> Path:
    """Return a study file with wrong fingerprints, a failure that retries cannot fix."""
    body = yaml.safe_load(study.file.read_text())
    body["metadata"]["name"] = "broken"
    for source in body["spec"]["data"]["sources"]:
        source["fingerprint"] = "0" * 64 if source["name"] == "english" else "1" * 64
    file = folder / "broken.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


def test_study_is_submitted_watched_stopped_resumed_retried_and_deleted(
    command_line: CommandLine, study: SmallStudy, tmp_path: Path
) -> None:
    name, file = "from-the-command-line", str(study.file)
    assert "no study in namespace" in command_line.run("status", name, expect=1, plugin=True)

    output = command_line.run("submit", file, "--wait", plugin=True)
    assert f"{name}: created" in output
    assert f"accepted and planned: 1 cells, {len(study.opened.plan.tasks)} tasks" in output
    assert f"kubectl sstudy watch {name} -n {command_line.kubectl.namespace}" in output
    command_line.run("submit", str(broken(study, tmp_path)))

    pod = eventually(_training(command_line, study), "a pod is training", seconds=600)
    shown = command_line.run("status", file)
    assert "plain, % of code" in shown
    assert "▶ 0/1" in shown
    assert f"pod {pod} for " in shown
    assert " tokens, loss " in command_line.run("logs", name, pod, "--tail", "3")

    assert "To resume: " in command_line.run("stop", file)
    eventually(lambda: command_line.phase(name) == "Paused", "it is stopped")
    assert "resumes from its checkpoints" in command_line.run("resume", name)
    output = command_line.run("watch", name, "--plain")
    assert f"{name}: Succeeded, 1/1 cells" in output
    assert "plain/0.01M/c25/s71 is done" in output
    assert json.loads(command_line.run("status", name, "--json", plugin=True))["grids"][0]["squares"][0]["state"] == "done"
    assert "attempt" in command_line.run("logs", name, study.opened.plan.cells[0].name)
    assert "no task of" in command_line.run("retry", name)
    assert "unchanged" in command_line.run("submit", file)

    assert "broken: Failed" in command_line.run("watch", "broken", "--plain", expect=1)
    assert "failed; fix and rerun" in command_line.run("status", "broken", expect=1)
    assert "as run 2" in command_line.run("retry", "broken", plugin=True)
    eventually(lambda: command_line.kubectl.json("get", "sstudy", "broken")["status"]["runNumber"] == 2, "the controller retries")

    assert "Nothing was deleted" in command_line.run("delete", name, expect=1)
    assert f"{name} is deleted" in command_line.run("delete", file, "--yes", plugin=True)
    assert [body["metadata"]["name"] for body in command_line.kubectl.json("get", "sstudy")["items"]] == ["broken"]
    label = f"scaling-study.dev/study={name}"
    eventually(lambda: not command_line.kubectl.json("get", "workflows", "-l", label)["items"], "its Workflows are deleted")
    assert study.results().keys() == study.opened.plan.tasks.keys(), "the records in the store are kept"


def _training(command_line: CommandLine, study: SmallStudy) -> Callable[[], str]:
    """Return a function that returns the training pod after its first step, "" before; in-process, because starting the command is slow."""
    from orchestrator.cluster.kubernetes_api import connect

    looking = StatusReader(study.opened.study.name, utc_now, store=study.store, cluster=connect(command_line.kubectl.namespace))

    def look() -> str:
        at_work = looking.read().active_tasks
        return next((work.pod for work in at_work if work.lease and work.task.kind == "train" and work.lease.tokens), "")

    return look


@pytest.fixture(scope="module")
def users(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CommandLine]:
    """A user with the researcher Role and one without any Role, both without the store's credentials."""
    found = {}
    for user in ("researcher", "stranger"):
        kubectl.run("create", "serviceaccount", user)
        if user == "researcher":
            account = f"{kubectl.namespace}:{user}"
            kubectl.run("create", "rolebinding", user, f"--role={RESEARCHER}", f"--serviceaccount={account}")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        config = tmp_path_factory.mktemp(user) / "config"
        config.write_text(json.dumps(_kubeconfig(kubectl.run("create", "token", user).strip())))
        found[user] = CommandLine(kubectl, {**environment, "KUBECONFIG": str(config), "AWS_EC2_METADATA_DISABLED": "true"})
    return found


def _kubeconfig(token: str) -> dict[str, Any]:
    """Return the kubeconfig of KUBECONFIG's cluster with another token."""
    seen = json.loads(
        subprocess.run(["kubectl", "config", "view", "--raw", "--minify", "-o", "json"], capture_output=True, check=True).stdout
    )
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{**seen["clusters"][0], "name": "c"}],
        "users": [{"name": "c", "user": {"token": token}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip


def test_missing_permission_is_reported_with_the_role_to_ask_for(users: dict[str, CommandLine], study: SmallStudy) -> None:
    assert "would be created" in users["researcher"].run("submit", str(study.file), "--dry-run")
    assert study.opened.study.name not in users["researcher"].kubectl.run("get", "sstudy"), "a dry run persists nothing"
    output = users["stranger"].run("submit", str(study.file), expect=1)
    assert "Ask a cluster administrator to bind the Role scaling-study-researcher" in output
    assert "eyJ" not in output, "the token is not printed"


def test_status_without_the_store_shows_the_grid_of_the_object(users: dict[str, CommandLine], command_line: CommandLine) -> None:
    eventually(lambda: command_line.phase("broken"), "the controller has reconciled it")
    began = time.monotonic()
    shown = users["researcher"].run("status", "broken", expect=None)
    assert time.monotonic() - began < 40, "the time spent on an unreachable store is limited"
    assert "its store cannot be reached from here" in shown
    assert "plain, % of code" in shown
    assert "0/1" in shown
