"""Read runs from the MLflow server in the cluster."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.kubectl import Document, Kubectl


@contextmanager
def forwarded(kubectl: Kubectl, service: str, port: int) -> Iterator[str]:
    """Forward a local port to a service and yield its local address."""
    command = ["kubectl", "--namespace", kubectl.namespace, "port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout
        # Forwarding from 127.0.0.1:40123 -> 5000
        yield f"http://{forwarding.stdout.readline().split()[2]}"
        forwarding.terminate()


def finished_runs(address: str, study: str) -> dict[str, Document]:
    """Return the metrics of a study's finished runs by task digest."""
    found = _ask(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 100}).get("experiments", [])
    experiments = [experiment["experiment_id"] for experiment in found if experiment["name"] == study]
    if not experiments:
        return {}
    query = {"experiment_ids": experiments, "max_results": 1000, "filter": "attributes.status = 'FINISHED'"}
    runs = _ask(f"{address}/api/2.0/mlflow/runs/search", query).get("runs", [])
    return {_tag(run, "digest"): {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])} for run in runs}


def _tag(run: Document, key: str) -> str:
    return next(str(tag["value"]) for tag in run["data"]["tags"] if tag["key"] == key)


def _ask(url: str, body: Document) -> Document:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: Document = json.load(answer)
    return found
