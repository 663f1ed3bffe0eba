"""MLflow in the cluster, filled by the mirror's pod from the store, asked through its API."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from orchestrator.store.records import read_record
from tests.e2e.kubectl import Document, Kubectl, eventually
from tests.e2e.small_study import SmallStudy

pytestmark = pytest.mark.cluster


@contextmanager
def forwarded(kubectl: Kubectl, service: str, port: int) -> Iterator[str]:
    """The address here of a service there."""
    command = ["kubectl", "--namespace", kubectl.namespace, "port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout
        # Forwarding from 127.0.0.1:40123 -> 5000
        yield f"http://{forwarding.stdout.readline().split()[2]}"
        forwarding.terminate()


def ask(url: str, body: Document) -> Document:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: Document = json.load(answer)
    return found


def runs(address: str, study: str) -> list[Document]:
    found = ask(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 100}).get("experiments", [])
    experiments = [experiment["experiment_id"] for experiment in found if experiment["name"] == study]
    if not experiments:
        return []
    answer = ask(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": experiments, "max_results": 1000})
    return list(answer.get("runs", []))


def test_mlflow_returns_the_runs_of_a_study(prepared: SmallStudy, kubectl: Kubectl) -> None:
    """The controller need not run for it: the mirror reads the object and the store."""
    kubectl.apply(yaml.safe_load(prepared.file.read_text()))
    kubectl.run("scale", "deployment", "mlflow", "mlflow-mirror", "--replicas=1")
    try:
        kubectl.run("wait", "--for=condition=Available", "deployment/mlflow", "--timeout=290s")
        done = prepared.results()
        with forwarded(kubectl, "mlflow", 5000) as address:
            found = eventually(lambda: finished(runs(address, "small"), len(done)), "every recorded task has a finished run")
        by_digest = {tag["value"]: run for run in found for tag in run["data"]["tags"] if tag["key"] == "digest"}
        assert by_digest.keys() == done.keys()
        for digest, run in by_digest.items():
            metrics = {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}
            record = read_record(prepared.store, digest)
            assert record is not None
            if "loss" in record.results:
                assert metrics["loss"] == record.results["loss"]
    finally:
        kubectl.run("scale", "deployment", "mlflow", "mlflow-mirror", "--replicas=0")
        kubectl.run("delete", "scalingstudy", "small", "--wait=false")


def finished(found: list[Document], number: int) -> list[Document] | None:
    over = [run for run in found if run["info"]["status"] == "FINISHED"]
    return over if len(over) == number else None
