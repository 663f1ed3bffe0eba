"""The overlays on a real API server: accepted, compatible with Pod Security, and limited by the network policies."""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.workflow import TRAINER
from tests.e2e.installation import ROOT, rendered
from tests.e2e.kubectl import Document, Failed, Kubectl, eventually

pytestmark = pytest.mark.cluster

OVERLAYS = sorted(folder for folder in (ROOT / "manifests/overlays").iterdir() if folder.is_dir())

# Prints "no" for refused connections and timeouts. Waits first, because network policies apply about a second after a pod's start
PROBE = """
import socket, sys, time
time.sleep(5)
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(address, "yes", flush=True)
    except OSError:
        print(address, "no", flush=True)
"""
STORE = "s3.s3-system:7070"
ELSEWHERE = "argo-server.argo:2746"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)
def test_api_server_accepts_every_object_of_an_overlay(kubectl: Kubectl, overlay: Path) -> None:
    text = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True).stdout
    for body in rendered(kubectl.namespace, replicas={}, text=text):
        # Kueue may not be installed on the cluster
        is_known = contextlib.nullcontext() if "kueue" not in body["apiVersion"] else contextlib.suppress(Failed)
        with is_known:
            kubectl.apply(body, dry_run=True)


def test_no_role_grants_secrets_or_wildcards() -> None:
    for body in rendered("anywhere", replicas={}):
        for rule in body.get("rules") or ():
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "pods/exec", "impersonate", "bind", "escalate"}, body["metadata"]["name"]


def test_installed_pods_satisfy_pod_security(kubectl: Kubectl) -> None:
    """Creates the pod templates as pods in a dry run, because a Deployment is accepted even if its pods are rejected."""
    for body in rendered(kubectl.namespace, replicas={}):
        if body["kind"] in ("Deployment", "CronJob"):
            template = (body["spec"]["jobTemplate"]["spec"] if body["kind"] == "CronJob" else body["spec"])["template"]
            metadata = {"name": body["metadata"]["name"], "namespace": kubectl.namespace}
            kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}, dry_run=True)


def test_privileged_pod_is_rejected(kubectl: Kubectl) -> None:
    pod = probe(kubectl, "rights", {}, [])
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(Failed, match="violates PodSecurity"):
        kubectl.create(pod, dry_run=True)


@pytest.mark.parametrize(
    ("name", "labels", "allowed"),
    [("trainer", {"scaling-study.dev/kind": "train"}, [STORE]), ("mlflow", {"app.kubernetes.io/name": "mlflow"}, [])],
)
def test_pod_can_connect_only_to_allowed_addresses(
    kubectl: Kubectl, trainer_image: str, name: str, labels: dict[str, str], allowed: list[str]
) -> None:
    addresses = [STORE, ELSEWHERE]
    kubectl.create(probe(kubectl, f"probe-{name}", labels, addresses, trainer_image))
    eventually(lambda: phase(kubectl, f"probe-{name}") == "Succeeded", "the probe has ended")
    results = eventually(lambda: probe_results(kubectl, f"probe-{name}", len(addresses)), "the log of the probe is complete")
    kubectl.run("delete", "pod", f"probe-{name}", "--wait=false")
    assert results == {address: "yes" if address in allowed else "no" for address in addresses}


def probe_results(kubectl: Kubectl, pod: str, number: int) -> dict[str, str] | None:
    """Return a probe's results, address -> yes or no, or None while its log is incomplete (the kubelet may print an error instead)."""
    lines = [line.split() for line in kubectl.run("logs", pod).splitlines()]
    results = {words[0]: words[1] for words in lines if len(words) == 2}
    return results if len(results) == number else None


def phase(kubectl: Kubectl, pod: str) -> str:
    return str(kubectl.json("get", "pod", pod)["status"]["phase"])


def probe(kubectl: Kubectl, name: str, labels: dict[str, str], addresses: list[str], image: str = "localhost/none:1") -> Document:
    """Return a restricted pod that tries to connect to `addresses`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": kubectl.namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": TRAINER,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python", "-c", PROBE, *addresses],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def test_controller_can_read_the_policy_of_every_overlay() -> None:
    from orchestrator.reconcile.policy import read_policy

    for overlay in OVERLAYS:
        text = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True).stdout
        (policy,) = (body for body in yaml.safe_load_all(text) if body["metadata"]["name"] == "scaling-study-policy")
        assert read_policy(json.loads(json.dumps(policy["data"]))).store_secret == "scaling-study-store"
