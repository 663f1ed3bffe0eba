"""A training task over several nodes: the JobSet that holds its pods, and the container that waits for them in a Workflow.

`build` calls it for sizes of more than one node. Argo knows one pod a task; that pod is our waiter
(`orchestrator.controller.jobset_waiter`), which creates the JobSet,
speaks for it and ends as its pod of index 0 ends. Argo fills the names in braces in, in the JobSet as everywhere else.
Pure, like all of this package.
"""

import json
from typing import Any, Final

from orchestrator.contract.vocabulary import LABEL_MANAGED_BY, LABEL_QUEUE, WAITER

Document = dict[str, Any]

JOB: Final = "n"
"""The one replicated job of a JobSet. A pod is named JOBSET-n-0-INDEX and five letters: at most 63 characters in all."""
PORT: Final = 29400
"""Where rank 0 waits for the ranks of other nodes; ranks then talk on ports of their own choice."""
MORE_GRACE_SECONDS: Final = 30
"""What the waiter is given beyond the pods that it stops: it ends after them, with their code."""

ATTEMPT: Final = "{{workflow.name}}-{{=inputs.parameters.short[:8]}}-{{retries}}"
"""Name of a JobSet, and of an attempt in a queue: the first letters of a digest are enough beside the Workflow's name, and the number of
the attempt makes each a new one."""


def build_jobset(nodes: int, container: Document, pod: Document, labels: Document, queue: str | None, namespace: str) -> Document:
    """`container`: the trainer's, with its flags. `pod`: what else a pod of the study is given, as in a pod's spec.

    `labels`: of the pods that Argo makes for the task. The pods of the JobSet have all of them but the one that says that a pod is ours to
    look at: what stands for the task in a listing is the waiter.
    """
    quiet = {key: value for key, value in labels.items() if key != LABEL_MANAGED_BY}
    address = {"name": "MASTER_ADDR", "value": f"{ATTEMPT}-{JOB}-0-0.{ATTEMPT}"}
    trainer = {**container, "env": [*container["env"], address, {"name": "MASTER_PORT", "value": str(PORT)}]}
    template = {
        "metadata": {"labels": quiet},
        "spec": {**pod, "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [trainer]},
    }
    job = {"parallelism": nodes, "completions": nodes, "completionMode": "Indexed", "backoffLimit": 0, "template": template}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": ATTEMPT, "namespace": namespace, "labels": {**labels, **({LABEL_QUEUE: queue} if queue else {})}},
        "spec": {
            # a restart is Argo's: it counts, waits and asks what the exit code means
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": True, "subdomain": ATTEMPT, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


def waiting_template(jobset: Document, container: Document, grace_seconds: int) -> Document:
    """What a template has instead of the trainer's container. `container`: one with the waiter's image and no secret in it."""
    told = [
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
                "terminationGracePeriodSeconds": grace_seconds + MORE_GRACE_SECONDS,
                # Argo leaves a yes to the account, which says no
                "automountServiceAccountToken": True,
            }
        ),
        "container": {**container, "env": [*container["env"], *told], "resources": resources},
    }
