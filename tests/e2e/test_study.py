"""The cluster example, applied with kubectl to a complete installation: controller, Argo, store and MLflow.

75 tasks take about ten minutes on two cores.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.contract.vocabulary import LABEL_STUDY
from orchestrator.study.opening import open_study
from tests.e2e.installation import ROOT, install, uninstall
from tests.e2e.kubectl import Document, Kubectl, eventually
from tests.e2e.mlflow_api import finished_runs, forwarded
from tests.e2e.small_study import SmallStudy

pytestmark = pytest.mark.cluster

EXAMPLE = ROOT / "manifests/examples/cluster.yaml"
# Timeout in seconds; each pod imports torch, and all share two cores
TIMEOUT = 1800
SOME = 5
OUTAGE_SECONDS = 60
DEPLOYMENTS = ("scaling-study-controller", "mlflow", "mlflow-mirror")


@pytest.fixture(scope="module")
def installation(trainer_image: str) -> Iterator[Kubectl]:
    """A complete installation in a new namespace."""
    assert trainer_image in EXAMPLE.read_text()
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl = install(namespace, controller=True, mlflow=True)
    kubectl.run("wait", "--for=condition=Available", *(f"deployment/{name}" for name in DEPLOYMENTS), "--timeout=280s")
    yield kubectl
    uninstall(namespace)


@pytest.fixture(scope="module")
def example(root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its addresses below the session's prefix."""
    file = tmp_path_factory.mktemp("example") / "cluster.yaml"
    text = EXAMPLE.read_text().replace("s3://studies/corpus", f"{root}/corpus").replace("s3://studies/cluster", f"{root}/cluster")
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def done(example: Path, installation: Kubectl) -> SmallStudy:
    """The study after it succeeded. In the meantime, MLflow was down for a minute and restarted with an empty database."""
    installation.run("apply", "-f", str(example))
    eventually(lambda: tasks_done(installation) >= SOME, "some tasks are done", TIMEOUT)
    installation.run("scale", "deployment/mlflow", "--replicas=0")
    before = tasks_done(installation)
    time.sleep(OUTAGE_SECONDS)
    assert tasks_done(installation) > before, "no task waits for MLflow"
    installation.run("scale", "deployment/mlflow", "--replicas=1")
    eventually(lambda: state(installation, "cluster") in ("Succeeded", "Failed", "Refused"), "the study has ended", TIMEOUT)
    found = installation.json("get", "sstudy", "cluster")
    assert found["status"]["phase"] == "Succeeded", found["status"]["conditions"]
    return SmallStudy(example, open_study(example))


def tasks_done(kubectl: Kubectl) -> int:
    counts = kubectl.json("get", "sstudy", "cluster").get("status", {}).get("counts") or {}
    return int(counts.get("tasksDone", 0))


def state(kubectl: Kubectl, study: str) -> str:
    return str(kubectl.json("get", "sstudy", study).get("status", {}).get("phase", ""))


def test_results_equal_those_of_a_local_run(done: SmallStudy, tmp_path: Path) -> None:
    assert done.opened.is_frozen, "the frozen plan of the controller equals that of the command line"
    results = done.results()
    assert results.keys() == done.opened.plan.tasks.keys()
    assert results == done.run_here(tmp_path)


def test_kubectl_shows_printer_columns(done: SmallStudy, installation: Kubectl) -> None:
    header, line = installation.run("get", "sstudy", "cluster").splitlines()
    assert header.split() == ["NAME", "STATE", "CELLS", "FAILED", "GPU-H", "ETA", "AGE"]
    cells = len(done.opened.plan.cells)
    assert line.split()[:4] == ["cluster", "Succeeded", f"{cells}/{cells}", "0"]


def test_mlflow_has_all_runs_after_its_outage(done: SmallStudy, installation: Kubectl) -> None:
    results = done.results()
    with forwarded(installation, "mlflow", 5000) as address:
        eventually(lambda: finished_runs(address, "cluster").keys() == results.keys(), "every task has a finished run")
        found = finished_runs(address, "cluster")
    for digest, result in results.items():
        if "bits_per_byte" in result:
            assert found[digest]["bits_per_byte"] == result["bits_per_byte"]


def test_report_is_written_from_the_bucket(done: SmallStudy, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "report", str(done.file), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_same_study_under_another_name_reuses_all_tasks(done: SmallStudy, installation: Kubectl) -> None:
    again: Document = yaml.safe_load(done.file.read_text())
    again["metadata"]["name"] = "again"
    installation.apply(again)
    eventually(lambda: state(installation, "again") == "Succeeded", "the second study has succeeded")
    assert not installation.json("get", "pods", "-l", f"{LABEL_STUDY}=again,scaling-study.dev/digest")["items"]
    reasons = {event["reason"] for event in installation.json("get", "events", "--field-selector", "involvedObject.name=again")["items"]}
    assert "TaskReused" in reasons
