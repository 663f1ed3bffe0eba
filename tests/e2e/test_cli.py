"""A study on a real cluster by the command line alone, as a researcher uses it: `scaling-study`, and `kubectl sstudy`.

The controller is a process beside the test; pods, Argo and the store are the cluster's.
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

from orchestrator.monitor.status_reader import Lookout
from orchestrator.store.objects import utc_now
from tests.e2e.installation import install, uninstall
from tests.e2e.kubectl import Kubectl, eventually
from tests.e2e.small_study import SmallStudy, make_study

pytestmark = pytest.mark.cluster

PYTHON: Final = Path(sys.executable)
SEED: Final = 71
"""Of no other test, whose records would be found in the store that all share."""
RESEARCHER: Final = "scaling-study-researcher"


class Here:
    """The command line in one namespace, in processes of its own."""

    def __init__(self, kubectl: Kubectl, environment: Mapping[str, str]) -> None:
        self.kubectl = kubectl
        self._environment = {**environment, "PATH": f"{PYTHON.parent}:{environment['PATH']}", "NO_COLOR": "1"}

    def run(self, *words: str, expect: int | None = 0, plugin: bool = False) -> str:
        """Its output, errors included. `expect`: the exit code, None for any."""
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
    """A namespace of its own, and a controller for it that runs here."""
    namespace = f"e2e-cli-{uuid.uuid4().hex[:6]}"
    kubectl = install(namespace, controller=False)
    command = [sys.executable, "-m", "orchestrator.controller", "--namespace", namespace, "--alone", "--port", "0"]
    controller = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    yield kubectl
    controller.terminate()
    controller.wait(60)
    uninstall(namespace)


@pytest.fixture(scope="module")
def here(kubectl: Kubectl) -> Here:
    return Here(kubectl, os.environ)


@pytest.fixture(scope="module")
def study(root: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_study(tmp_path_factory.mktemp("cli"), "from-the-command-line", root, seeds=(SEED,), tokens="512K")


def broken(study: SmallStudy, folder: Path) -> Path:
    """The same study with a fingerprint that its files do not have: no retry of the controller's can mend that."""
    body = yaml.safe_load(study.file.read_text())
    body["metadata"]["name"] = "broken"
    for source in body["spec"]["data"]["sources"]:
        source["fingerprint"] = "0" * 64 if source["name"] == "english" else "1" * 64
    file = folder / "broken.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


def test_submitted_watched_stopped_resumed_retried_and_deleted(here: Here, study: SmallStudy, tmp_path: Path) -> None:
    name, file = "from-the-command-line", str(study.file)
    assert "no study in namespace" in here.run("status", name, expect=1, plugin=True)

    told = here.run("submit", file, "--wait", plugin=True)
    assert f"{name}: created" in told
    assert f"accepted and planned: 1 cells, {len(study.opened.plan.tasks)} tasks" in told
    assert f"kubectl sstudy watch {name} -n {here.kubectl.namespace}" in told
    here.run("submit", str(broken(study, tmp_path)))

    pod = eventually(_training(here, study), "a pod trains and has made a step", seconds=600)
    shown = here.run("status", file)
    assert "plain, % of code" in shown
    assert "▶ 0/1" in shown
    assert f"pod {pod} for " in shown
    assert " tokens, loss " in here.run("logs", name, pod, "--tail", "3")

    assert "To go on: " in here.run("stop", file)
    eventually(lambda: here.phase(name) == "Paused", "it is stopped")
    assert "goes on from its checkpoints" in here.run("resume", name)
    told = here.run("watch", name, "--plain")
    assert f"{name}: Succeeded, 1/1 cells" in told
    assert "plain/0.01M/c25/s71 is done" in told
    assert json.loads(here.run("status", name, "--json", plugin=True))["grids"][0]["squares"][0]["state"] == "done"
    assert "attempt" in here.run("logs", name, study.opened.plan.cells[0].name)
    assert "nothing of" in here.run("retry", name)
    assert "unchanged" in here.run("submit", file)

    assert "broken: Failed" in here.run("watch", "broken", "--plain", expect=1)
    assert "missing, until somebody mends it" in here.run("status", "broken", expect=1)
    assert "as run 2" in here.run("retry", "broken", plugin=True)
    eventually(lambda: here.kubectl.json("get", "sstudy", "broken")["status"]["runNumber"] == 2, "the controller tries again")

    assert "Nothing was deleted" in here.run("delete", name, expect=1)
    assert f"{name} is deleted" in here.run("delete", file, "--yes", plugin=True)
    assert [body["metadata"]["name"] for body in here.kubectl.json("get", "sstudy")["items"]] == ["broken"]
    label = f"scaling-study.dev/study={name}"
    eventually(lambda: not here.kubectl.json("get", "workflows", "-l", label)["items"], "its Workflows are gone")
    assert study.results().keys() == study.opened.plan.tasks.keys(), "the store stays"


def _training(here: Here, study: SmallStudy) -> Callable[[], str]:
    """The pod that trains, once it has made a step; "" until then. In this process: the command line would load for every look."""
    from orchestrator.cluster.kubernetes_api import connect

    looking = Lookout(study.opened.study.name, utc_now, store=study.store, cluster=connect(here.kubectl.namespace))

    def look() -> str:
        at_work = looking.look().at_work
        return next((work.pod for work in at_work if work.lease and work.task.kind == "train" and work.lease.tokens), "")

    return look


@pytest.fixture(scope="module")
def people(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Here]:
    """A researcher, who has the Role for people, and somebody without any; without the store's credentials."""
    found = {}
    for who in ("researcher", "stranger"):
        kubectl.run("create", "serviceaccount", who)
        if who == "researcher":
            account = f"{kubectl.namespace}:{who}"
            kubectl.run("create", "rolebinding", who, f"--role={RESEARCHER}", f"--serviceaccount={account}")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        config = tmp_path_factory.mktemp(who) / "config"
        config.write_text(json.dumps(_kubeconfig(kubectl.run("create", "token", who).strip())))
        found[who] = Here(kubectl, {**environment, "KUBECONFIG": str(config), "AWS_EC2_METADATA_DISABLED": "true"})
    return found


def _kubeconfig(token: str) -> dict[str, Any]:
    """The cluster of KUBECONFIG, with another's token."""
    seen = json.loads(
        subprocess.run(["kubectl", "config", "view", "--raw", "--minify", "-o", "json"], capture_output=True, check=True).stdout
    )
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{**seen["clusters"][0], "name": "c"}],
        "users": [{"name": "c", "user": {"token": token}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip


def test_what_a_person_may_not_do_is_told_with_whom_to_ask(people: dict[str, Here], study: SmallStudy) -> None:
    assert "would be created" in people["researcher"].run("submit", str(study.file), "--dry-run")
    assert study.opened.study.name not in people["researcher"].kubectl.run("get", "sstudy"), "nothing of a dry run stays"
    told = people["stranger"].run("submit", str(study.file), expect=1)
    assert "binds the Role scaling-study-researcher to you" in told
    assert "eyJ" not in told, "the token is nobody's business"


def test_whoever_cannot_reach_the_store_sees_the_grid_that_the_object_tells_of(people: dict[str, Here], here: Here) -> None:
    eventually(lambda: here.phase("broken"), "somebody has looked at it")
    began = time.monotonic()
    shown = people["researcher"].run("status", "broken", expect=None)
    assert time.monotonic() - began < 40, "a person waits for a store that does not answer, but not for long"
    assert "its store cannot be reached from here" in shown
    assert "plain, % of code" in shown
    assert "0/1" in shown
