"""Install the one-node overlay in a new namespace, with a Secret for the store."""

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import yaml

from tests.e2e.kubectl import Document, Kubectl

ROOT: Final = Path(__file__).parents[2]
OVERLAY: Final = ROOT / "manifests/overlays/one-node"
INSTALLED: Final = "scaling-study"
"""The namespace in the overlay."""

# The endpoint for pods of the store whose endpoint for this process is AWS_ENDPOINT_URL
ENDPOINT: Final = os.environ.get("E2E_S3_ENDPOINT", "http://s3.s3-system:7070")
TRAINER_IMAGE: Final = os.environ.get("E2E_TRAINER_IMAGE", "localhost/trainer:dev")
CONTROLLER_IMAGE: Final = os.environ.get("E2E_CONTROLLER_IMAGE", "localhost/controller:dev")

STORE_SECRET: Final = "scaling-study-store"


def rendered(namespace: str, *, replicas: dict[str, int], text: str = "") -> list[Document]:
    """Return an overlay's objects for `namespace`. `text`: the overlay, by default one-node. `replicas`: by name of the Deployment."""
    text = text or subprocess.run(["kubectl", "kustomize", str(OVERLAY)], capture_output=True, text=True, check=True).stdout
    found = [_with_namespace(body, namespace) for body in yaml.safe_load_all(text)]
    for body in found:
        if body["kind"] == "Deployment" and body["metadata"]["name"] in replicas:
            body["spec"]["replicas"] = replicas[body["metadata"]["name"]]
    return found


def _with_namespace(body: Document, namespace: str) -> Document:
    """Replace the namespace, and make the names of cluster-scoped objects except the CRD unique."""
    moved: Document = json.loads(json.dumps(body).replace(f'"namespace": "{INSTALLED}"', f'"namespace": "{namespace}"'))
    if body["kind"] == "Namespace":
        moved["metadata"]["name"] = namespace
    elif "namespace" not in body["metadata"] and body["kind"] != "CustomResourceDefinition":
        moved["metadata"]["name"] += f"-{namespace}"
        if "roleRef" in moved:
            moved["roleRef"]["name"] += f"-{namespace}"
    return moved


def install(namespace: str, *, controller: bool, mlflow: bool = False) -> Kubectl:
    """Create `namespace`, install the overlay in it, and return a kubectl for it."""
    running = {"scaling-study-controller": int(controller), "mlflow": int(mlflow), "mlflow-mirror": int(mlflow)}
    kubectl = Kubectl(namespace)
    kubectl.apply(*rendered(namespace, replicas=running))
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": STORE_SECRET, "namespace": namespace},
            "stringData": {
                "AWS_ENDPOINT_URL": ENDPOINT,
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
                "AWS_ACCESS_KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
                "AWS_SECRET_ACCESS_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
            },
        }
    )
    return kubectl


def uninstall(namespace: str) -> None:
    """Delete everything except the CRD, which other namespaces use."""
    kubectl = Kubectl(namespace)
    for body in rendered(namespace, replicas={}):
        if body["kind"] == "Namespace" or ("namespace" not in body["metadata"] and body["kind"] != "CustomResourceDefinition"):
            kubectl.run("delete", body["kind"], body["metadata"]["name"], "--ignore-not-found", "--wait=false")
