"""The overlays on a real API server: accepted, under Pod Security, and nobody reaches more than the network policies say."""

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

# Connections that are refused or time out end as "no". Whoever enforces policies learns of a new pod a second or so after its start
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
def test_the_api_server_takes_every_object_of_an_overlay(kubectl: Kubectl, overlay: Path) -> None:
    text = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True).stdout
    for body in rendered(kubectl.namespace, replicas={}, text=text):
        # Kueue is not part of an installation: its kinds may be unknown
        is_known = contextlib.nullcontext() if "kueue" not in body["apiVersion"] else contextlib.suppress(Failed)
        with is_known:
            kubectl.apply(body, dry_run=True)


def test_no_object_of_ours_asks_for_secrets_or_for_everything() -> None:
    for body in rendered("anywhere", replicas={}):
        for rule in body.get("rules") or ():
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "pods/exec", "impersonate", "bind", "escalate"}, body["metadata"]["name"]


def test_our_own_pods_run_under_pod_security(kubectl: Kubectl) -> None:
    """Refused pods would show as a condition of what makes them; a dry run of the templates as pods asks directly."""
    for body in rendered(kubectl.namespace, replicas={}):
        if body["kind"] in ("Deployment", "CronJob"):
            template = (body["spec"]["jobTemplate"]["spec"] if body["kind"] == "CronJob" else body["spec"])["template"]
            metadata = {"name": body["metadata"]["name"], "namespace": kubectl.namespace}
            kubectl.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}, dry_run=True)


def test_a_pod_with_more_rights_is_refused(kubectl: Kubectl) -> None:
    pod = probe(kubectl, "rights", {}, [])
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(Failed, match="violates PodSecurity"):
        kubectl.create(pod, dry_run=True)


@pytest.mark.parametrize(
    ("name", "labels", "open_ones"),
    [("trainer", {"scaling-study.dev/kind": "train"}, [STORE]), ("mlflow", {"app.kubernetes.io/name": "mlflow"}, [])],
)
def test_a_pod_reaches_this_and_no_more(
    kubectl: Kubectl, trainer_image: str, name: str, labels: dict[str, str], open_ones: list[str]
) -> None:
    asked = [STORE, ELSEWHERE]
    kubectl.create(probe(kubectl, f"probe-{name}", labels, asked, trainer_image))
    eventually(lambda: phase(kubectl, f"probe-{name}") == "Succeeded", "the probe is over")
    told = eventually(lambda: answers(kubectl, f"probe-{name}", len(asked)), "the kubelet finds its log")
    kubectl.run("delete", "pod", f"probe-{name}", "--wait=false")
    assert told == {address: "yes" if address in open_ones else "no" for address in asked}


def answers(kubectl: Kubectl, pod: str, number: int) -> dict[str, str] | None:
    """Of a probe: address -> yes or no. A kubelet that is about to move the log prints a sentence about that in its place."""
    lines = [line.split() for line in kubectl.run("logs", pod).splitlines()]
    told = {words[0]: words[1] for words in lines if len(words) == 2}
    return told if len(told) == number else None


def phase(kubectl: Kubectl, pod: str) -> str:
    return str(kubectl.json("get", "pod", pod)["status"]["phase"])


def probe(kubectl: Kubectl, name: str, labels: dict[str, str], addresses: list[str], image: str = "localhost/none:1") -> Document:
    """A pod as restricted as ours, that tries to connect."""
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


def test_the_policy_of_an_overlay_is_one_that_the_controller_reads() -> None:
    from orchestrator.reconcile.policy import read_policy

    for overlay in OVERLAYS:
        text = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True).stdout
        (policy,) = (body for body in yaml.safe_load_all(text) if body["metadata"]["name"] == "scaling-study-policy")
        assert read_policy(json.loads(json.dumps(policy["data"]))).store_secret == "scaling-study-store"
