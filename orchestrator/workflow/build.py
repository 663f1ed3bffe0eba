"""Render a unit as an Argo Workflow, a plain dict.

Pure: no clock and no random id; the same unit, plan and settings give the same bytes. The controller submits it with strict field
validation, `render` prints it. Argo runs the DAG and the retries; the trainer's exit codes determine whether a task is retried.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from orchestrator.contract.exits import RETRIED_WITHOUT_COUNTING, ExitCode
from orchestrator.contract.kinds import KINDS
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import PrepareTask, TokenizerTask
from orchestrator.contract.vocabulary import (
    ANNOTATION_TASKS,
    DIGEST_LABEL_LENGTH,
    LABEL_DIGEST,
    LABEL_KIND,
    LABEL_MANAGED_BY,
    LABEL_QUEUE,
    LABEL_RUN,
    LABEL_SIZE,
    LABEL_STORE,
    LABEL_STUDY,
    MANAGED_BY,
    TaskKind,
)
from orchestrator.spec import Execution
from orchestrator.spec.execution import Resources
from orchestrator.spec.numbers import format_decimal
from orchestrator.workflow.jobset import ATTEMPT, build_jobset, waiter_template
from orchestrator.workflow.units import Unit, store_label, workflow_name

Document = dict[str, Any]

EXECUTOR: Final = "scaling-study-executor"
"""Service account of Argo's own containers, and name prefix of the Secret with its token. The trainer has no token."""
TRAINER: Final = "scaling-study-trainer"

# Argo also counts preempted attempts, so this limit is high; failures are counted in the leases
RETRY_LIMIT: Final = 1000
# Attempts after which Argo stops retrying other failures: a crash before the first access to the store leaves no lease
MAX_CRASHES: Final = 30
PERMANENT_FAILURE: Final = (
    f'lastRetry.exitCode == "{int(ExitCode.REFUSED)}" || lastRetry.message matches "OOM" || lastRetry.message matches "forbidden"'
)
RETRY_EXPRESSION: Final = (
    f"!({PERMANENT_FAILURE}) && (lastRetry.status == 'Error'"
    f" || lastRetry.exitCode in [{', '.join(repr(str(int(code))) for code in RETRIED_WITHOUT_COUNTING)}]"
    f" || asInt(retries) < {MAX_CRASHES})"
)
BACKOFF: Final[Document] = {"duration": "2s", "factor": 2, "cap": "2m"}

USER: Final = 65532
"""User id in all images, without privileges."""
SECURITY: Final[Document] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "fsGroup": USER,
    # avoids a recursive chown of a shared cache (a million files) for every pod
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
MIN_GRACE_SECONDS: Final = 120
"""Minimum seconds between SIGTERM and SIGKILL: time to finish the current step and to write a checkpoint."""
CHECKPOINT_BYTES_PER_PARAMETER: Final = 12
"""Bytes per parameter in a checkpoint: the weight and two moments in float32."""
MIN_UPLOAD_BYTES_PER_SECOND: Final = 100e6
"""Assumed minimum upload rate to a store, in bytes per second; a checkpoint of 2.8B parameters takes 336 s."""
LABEL_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
GROUP_OF_ONE: Final[Document] = {"kueue.x-k8s.io/pod-group-total-count": "1", "kueue.x-k8s.io/retriable-in-group": "false"}
"""Makes every attempt a Kueue pod group of its own. Kueue releases the quota of a single pod when its deletion is requested, but that of
a group only when its last pod has ended, that is after the checkpoint is written."""

SUCCESS_TTL_SECONDS: Final = 3600
"""Seconds for which a succeeded Workflow is kept for inspection; its record is in the store."""
FAILURE_TTL_SECONDS: Final = 7 * 24 * 3600
"""Seconds for which a failed Workflow is kept. Only the Workflow shows a failure that left no trace in the lease, such as out of memory."""

WAITER_IMAGE: Final = "controller"
"""Image name in the manifests, which an installation replaces."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """Settings of a study's pods. `inputs`: fingerprint -> paths. `defaults`: the fields that the namespace's policy adds to every pod.

    `waiter_image`: image of the pods that wait for a JobSet of several nodes (the controller's image). `shards_claim`: the
    PersistentVolumeClaim with the downloaded shards, shared by all pods; "" for a copy in each pod.
    """

    namespace: str
    study: str
    study_uid: str
    store: str
    run_number: int
    execution: Execution
    inputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lease_seconds: int = 600
    checkpoint_seconds: int = 600
    environment: Mapping[str, str] = field(default_factory=dict)
    defaults: Document = field(default_factory=dict)
    waiter_image: str = WAITER_IMAGE
    shards_claim: str = ""


def build_workflow(unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    """Render the Workflow of a unit. Its name is `workflow_name(unit, settings.run_number, settings.store)`."""
    labels = labels_of(settings, unit.kind, unit.size)
    annotations = {ANNOTATION_TASKS: json.dumps(unit.tasks), "scaling-study.dev/what": unit.label}
    templates = [_dag(unit, plan), *_templates(unit, plan, settings)]
    return workflow_of(workflow_name(unit, settings.run_number, settings.store), labels, annotations, "unit", templates, settings)


def workflow_of(
    name: str, labels: Document, annotations: Document, entrypoint: str, templates: list[Document], settings: PodSettings
) -> Document:
    """Render a Workflow around its templates: owner, service accounts, security context, garbage collection."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": annotations,
            **_owner(settings),
        },
        "spec": {
            "entrypoint": entrypoint,
            "serviceAccountName": settings.execution.service_account or TRAINER,
            "automountServiceAccountToken": False,
            "executor": {"serviceAccountName": EXECUTOR},
            "podMetadata": {"labels": labels},
            "podGC": {"strategy": "OnPodCompletion", "deleteDelayDuration": "60s"},
            "ttlStrategy": {"secondsAfterSuccess": SUCCESS_TTL_SECONDS, "secondsAfterFailure": FAILURE_TTL_SECONDS},
            "securityContext": dict(SECURITY),
            "volumes": _volumes(settings),
            "templates": templates,
            **_scheduling(settings),
        },
    }


def labels_of(settings: PodSettings, kind: TaskKind, size: str = "") -> Document:
    """Return the labels of a Workflow and of all its pods."""
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_STUDY: settings.study,
        LABEL_KIND: str(kind),
        LABEL_RUN: str(settings.run_number),
        LABEL_STORE: store_label(settings.store),
    }
    return {**labels, LABEL_SIZE: size} if size else labels


def _owner(settings: PodSettings) -> Document:
    if not settings.study_uid:
        return {}
    owner = {
        "apiVersion": "scaling-study.dev/v1alpha1",
        "kind": "ScalingStudy",
        "name": settings.study,
        "uid": settings.study_uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {"ownerReferences": [owner]}


def _scheduling(settings: PodSettings) -> Document:
    """Return the scheduling fields of a study, which override those of the namespace's policy."""
    execution = settings.execution
    own: Document = {}
    if execution.node_selector:
        own["nodeSelector"] = dict(execution.node_selector)
    if execution.tolerations:
        own["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in execution.tolerations]
    if execution.priority_class:
        own["podPriorityClassName"] = execution.priority_class
    if execution.pull_secrets:
        own["imagePullSecrets"] = [{"name": name} for name in execution.pull_secrets]
    return {**settings.defaults, **own}


def _volumes(settings: PodSettings) -> list[Document]:
    claim = settings.shards_claim
    return [
        {"name": "tmp", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *([{"name": "shards", "persistentVolumeClaim": {"claimName": claim}}] if claim else []),
    ]


def _dag(unit: Unit, plan: Plan) -> Document:
    inside = set(unit.tasks)
    return {"name": "unit", "dag": {"failFast": False, "tasks": [_dag_task(plan.tasks[digest], inside) for digest in unit.tasks]}}


def _dag_task(task: PlannedTask, inside: set[str]) -> Document:
    needs = [_task_name(need) for need in task.needs if need in inside]
    return {
        "name": _task_name(task.digest),
        "template": str(task.kind),
        "arguments": {"parameters": [{"name": "digest", "value": task.digest}, {"name": "short", "value": short(task.digest)}]},
        **({"dependencies": needs} if needs else {}),
    }


def short(digest: str) -> str:
    """Return the prefix of a digest that fits in a label value."""
    return digest[:DIGEST_LABEL_LENGTH]


def _task_name(digest: str) -> str:
    return f"t-{short(digest)}"


def _templates(unit: Unit, plan: Plan, settings: PodSettings) -> list[Document]:
    kinds = dict.fromkeys(plan.tasks[digest].kind for digest in unit.tasks)
    return [_template(kind, unit, plan, settings) for kind in kinds]


def _template(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    labels = {LABEL_DIGEST: "{{inputs.parameters.short}}", LABEL_KIND: str(kind)}
    queue, is_multi_node = settings.execution.queue, _nodes(kind, unit, settings) > 1
    metadata: Document = {"labels": labels}
    if queue and kind == TaskKind.TRAIN and not is_multi_node:
        metadata = {"labels": {**labels, LABEL_QUEUE: queue, LABEL_GROUP: ATTEMPT}, "annotations": dict(GROUP_OF_ONE)}
    return {
        "name": str(kind),
        "inputs": {"parameters": [{"name": "digest"}, {"name": "short"}]},
        "metadata": metadata,
        "retryStrategy": {
            "limit": str(RETRY_LIMIT),
            "retryPolicy": "Always",
            "expression": RETRY_EXPRESSION,
            "backoff": dict(BACKOFF),
        },
        **(_multi_node(unit, plan, settings, labels) if is_multi_node else _single_pod(kind, unit, plan, settings)),
    }


def _nodes(kind: TaskKind, unit: Unit, settings: PodSettings) -> int:
    return settings.execution.nodes.get(unit.size, 1) if kind == TaskKind.TRAIN else 1


def _single_pod(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    return {
        "podSpecPatch": json.dumps({"terminationGracePeriodSeconds": grace_seconds(unit, plan, settings.execution)}),
        "container": _container(kind, unit, plan, settings),
    }


def _multi_node(unit: Unit, plan: Plan, settings: PodSettings, labels: Document) -> Document:
    """Return a waiter container and the JobSet it creates, whose pods have the settings of a single-node pod."""
    execution = settings.execution
    scheduling = _scheduling(settings)
    priority = scheduling.pop("podPriorityClassName", None)
    pod: Document = {
        "serviceAccountName": execution.service_account or TRAINER,
        "securityContext": dict(SECURITY),
        "terminationGracePeriodSeconds": grace_seconds(unit, plan, execution),
        "volumes": _volumes(settings),
        **scheduling,
        **({"priorityClassName": priority} if priority else {}),
    }
    trainer = _container(TaskKind.TRAIN, unit, plan, settings)
    all_labels = {**labels_of(settings, TaskKind.TRAIN, unit.size), **labels}
    jobset = build_jobset(_nodes(TaskKind.TRAIN, unit, settings), trainer, pod, all_labels, execution.queue, settings.namespace)
    waiter = container_of(settings.waiter_image, ["python", "-m", "orchestrator.controller.jobset_waiter"], [], settings)
    waiter.pop("envFrom", None)
    return waiter_template(jobset, waiter, grace_seconds(unit, plan, execution))


def grace_seconds(unit: Unit, plan: Plan, execution: Execution) -> int:
    """Return the seconds between SIGTERM and SIGKILL: the study's value, or else time for one step and one checkpoint."""
    parameters = plan.shapes[unit.size].total if unit.size else 0
    return execution.grace_seconds or max(
        MIN_GRACE_SECONDS, ceil(MIN_GRACE_SECONDS / 2 + parameters * CHECKPOINT_BYTES_PER_PARAMETER / MIN_UPLOAD_BYTES_PER_SECOND)
    )


def _gpus(kind: TaskKind, unit: Unit, settings: PodSettings) -> int:
    """Return the GPUs that a pod requests: the study's value for training, at most one for an evaluation (a single process)."""
    train_gpus = settings.execution.gpus_per_pod.get(unit.size, 1)
    if kind == TaskKind.TRAIN:
        return train_gpus
    return min(1, train_gpus) if KINDS[kind].has_model else 0


def _container(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    gpus, nodes = _gpus(kind, unit, settings), _nodes(kind, unit, settings)
    image, arguments = settings.execution.image or "", _arguments(unit, plan, settings, gpus, nodes)
    container = container_of(image, ["python", "-m", "trainer"], arguments, settings)
    if resources := resources_of(settings.execution.resources.of(kind), gpus):
        container["resources"] = resources
    return container


def resources_of(asked: Resources, gpus: int) -> Document:
    """Return requests and limits of a container. CPU has no limit, so that idle cores can be used."""
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    if asked.memory is not None:
        limits["memory"] = asked.memory
    requests = {**limits, **({"cpu": format_decimal(asked.cpu)} if asked.cpu is not None else {})}
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


def container_of(image: str, command: list[str], arguments: list[str], settings: PodSettings) -> Document:
    """Return a pod's main container: unprivileged, a read-only root file system, and the store's credentials."""
    environment = {"HOME": "/tmp", "TMPDIR": "/tmp", "HF_HOME": "/cache/huggingface", **settings.environment}
    container: Document = {
        "name": "main",
        "image": image,
        "command": command,
        "args": arguments,
        "env": [
            *({"name": name, "value": value} for name, value in sorted(environment.items())),
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *([{"name": "shards", "mountPath": "/shards"}] if settings.shards_claim else []),
        ],
    }
    if settings.execution.store_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.execution.store_secret}}]
    return container


def _arguments(unit: Unit, plan: Plan, settings: PodSettings, gpus: int, nodes: int) -> list[str]:
    execution = settings.execution
    micro_batch = execution.micro_batch
    size = micro_batch.get(unit.size, 0) if isinstance(micro_batch, Mapping) else micro_batch or 0
    flags = {
        "store": settings.store,
        "study": settings.study,
        "run-number": settings.run_number,
        "node": "{{workflow.name}}/{{inputs.parameters.short}}({{retries}})",
        "image": execution.image or "",
        "gpus": gpus,
        **({"nodes": nodes} if nodes > 1 else {}),
        "micro-batch": size,
        "checkpoint-seconds": settings.checkpoint_seconds,
        "lease-seconds": settings.lease_seconds,
        "cache": "/cache",
        **({"shards": "/shards"} if settings.shards_claim else {}),
    }
    inputs = [f"--input={fingerprint}={path}" for fingerprint, path in _inputs(unit, plan, settings)]
    return ["{{inputs.parameters.digest}}", *(f"--{name}={value}" for name, value in flags.items()), *inputs]


def _inputs(unit: Unit, plan: Plan, settings: PodSettings) -> list[tuple[str, str]]:
    """Return (fingerprint, path) of the input files of the unit's prepare tasks."""
    needed: dict[str, None] = {}
    for digest in unit.tasks:
        task = plan.tasks[digest].task
        if isinstance(task, TokenizerTask):
            needed |= dict.fromkeys(part[0] for part in task.sources)
        elif isinstance(task, PrepareTask):
            needed |= dict.fromkeys((task.fingerprint, task.tokenizer))
    return [(fingerprint, path) for fingerprint in needed for path in settings.inputs.get(fingerprint, ())]
