"""Render a training task on several nodes: a JobSet with the training pods, and the container in the Workflow that waits for it.

Called by `build` for sizes with more than one node. Argo runs one pod per task; here it is the waiter
(`orchestrator.controller.jobset_waiter`), which creates the JobSet, forwards its logs and exits with the code of its pod with index 0. Argo
substitutes the names in braces, also inside the JobSet. Pure.
"""

import json
from typing import Any, Final

from orchestrator.contract.vocabulary import LABEL_MANAGED_BY, LABEL_QUEUE, WAITER

Document = dict[str, Any]

JOB: Final = "n"
"""Name of the only replicated job of a JobSet. It is short because pods are named JOBSET-n-0-INDEX-SUFFIX, at most 63 characters."""
PORT: Final = 29400
"""MASTER_PORT: where rank 0 accepts the other ranks at start. Later traffic uses ephemeral ports."""
EXTRA_GRACE_SECONDS: Final = 30
"""Additional grace period of the waiter, because it ends after the pods that it stops."""

ATTEMPT: Final = "{{workflow.name}}-{{=inputs.parameters.short[:8]}}-{{retries}}"
"""Name of a JobSet and of a Kueue pod group: unique per Workflow, task (a digest prefix is enough) and attempt."""


def build_jobset(nodes: int, container: Document, pod: Document, labels: Document, queue: str | None, namespace: str) -> Document:
    """Render the JobSet. `container`: the trainer's container. `pod`: the other fields of its pod spec.

    `labels`: the labels of the task's pod in the Workflow. The JobSet's pods have all of them except LABEL_MANAGED_BY, because the waiter
    represents the task in listings of pods.
    """
    pod_labels = {key: value for key, value in labels.items() if key != LABEL_MANAGED_BY}
    address = {"name": "MASTER_ADDR", "value": f"{ATTEMPT}-{JOB}-0-0.{ATTEMPT}"}
    trainer = {**container, "env": [*container["env"], address, {"name": "MASTER_PORT", "value": str(PORT)}]}
    template = {
        "metadata": {"labels": pod_labels},
        "spec": {**pod, "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [trainer]},
    }
    job = {"parallelism": nodes, "completions": nodes, "completionMode": "Indexed", "backoffLimit": 0, "template": template}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": ATTEMPT, "namespace": namespace, "labels": {**labels, **({LABEL_QUEUE: queue} if queue else {})}},
        "spec": {
            # Argo retries: it counts attempts, backs off and evaluates the exit code
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": True, "subdomain": ATTEMPT, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


def waiter_template(jobset: Document, container: Document, grace_seconds: int) -> Document:
    """Return the fields of a waiter's template. `container`: has the waiter's image and no secret."""
    environment = [
        {"name": "JOBSET", "value": json.dumps(jobset, separators=(",", ":"))},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]
    resources = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
    return {
        "serviceAccountName": WAITER,
        "automountServiceAccountToken": True,
        "podSpecPatch": json.dumps(
            {
                "terminationGracePeriodSeconds": grace_seconds + EXTRA_GRACE_SECONDS,
                # Argo does not pass `true` on to the pod; without this patch, the service account's setting applies
                "automountServiceAccountToken": True,
            }
        ),
        "container": {**container, "env": [*container["env"], *environment], "resources": resources},
    }
