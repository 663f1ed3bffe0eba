"""A unit -> an Argo Workflow, as a plain dict.

Pure: no clock, no random id, the same bytes for the same unit, plan and settings. The controller sends it with strict field validation,
`render` prints it. Argo does the DAG and the restarts; what a restart means is in the trainer's exit codes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

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
    ExitCode,
    TaskKind,
)
from orchestrator.spec import Execution
from orchestrator.spec.execution import Resources
from orchestrator.spec.numbers import written
from orchestrator.workflow.jobset import ATTEMPT, build_jobset, waiting_template
from orchestrator.workflow.units import Unit, store_label, workflow_name

Document = dict[str, Any]

EXECUTOR: Final = "scaling-study-executor"
"""Service account of Argo's own containers, and the prefix of its token's Secret; the trainer holds no token."""
TRAINER: Final = "scaling-study-trainer"

# Argo counts every attempt, also those that were only preempted: failures are counted in the leases, not here
RETRY_LIMIT: Final = 1000
# A crash before the store is reached leaves no lease: so many attempts in all, then Argo gives up on other failures
CRASHES: Final = 30
ALWAYS_AGAIN: Final = (ExitCode.HELD, ExitCode.STOPPED, 137, 143)
NEVER_AGAIN: Final = (
    f'lastRetry.exitCode == "{int(ExitCode.REFUSED)}" || lastRetry.message matches "OOM" || lastRetry.message matches "forbidden"'
)
RETRY_EXPRESSION: Final = (
    f"!({NEVER_AGAIN}) && (lastRetry.status == 'Error'"
    f" || lastRetry.exitCode in [{', '.join(repr(str(int(code))) for code in ALWAYS_AGAIN)}]"
    f" || asInt(retries) < {CRASHES})"
)
BACKOFF: Final[Document] = {"duration": "2s", "factor": 2, "cap": "2m"}

USER: Final = 65532
"""The user of both images: nobody in particular."""
SECURITY: Final[Document] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "fsGroup": USER,
    # a shared cache of a million files is not walked for every pod
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
LEAST_GRACE: Final = 120
"""Seconds between SIGTERM and SIGKILL for a model of any size: the step that runs is finished, then the checkpoint is written."""
CHECKPOINT_BYTES: Final = 12
"""Of a parameter in a checkpoint: weights and two moments in float32."""
CHECKPOINT_BYTES_A_SECOND: Final = 100e6
"""What a pod is believed to write to a store at least; 2.8B parameters take 336 s then."""
LABEL_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
GROUP_OF_ONE: Final[Document] = {"kueue.x-k8s.io/pod-group-total-count": "1", "kueue.x-k8s.io/retriable-in-group": "false"}
"""Every attempt is a group of its own for Kueue: it gives the quota of a single pod away when that is asked to stop, and of a group when
its last pod has ended, which may be a checkpoint later."""

KEEP_SECONDS: Final = 3600
"""How long a Workflow that succeeded stays for people to look at; its record is in the store."""
KEEP_FAILED_SECONDS: Final = 7 * 24 * 3600
"""And one that failed: it alone says that Argo gave a task up that left no word in its lease, as one that ran out of memory."""

WAITER_IMAGE: Final = "controller"
"""As the manifests name it until an installation says where it is."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """Where the pods of a study run. `inputs`: fingerprint -> paths. `defaults`: what the namespace's policy adds to every pod.

    `waiter_image`: of the pods that wait for training over several nodes; the controller's own image has what they need. `shards_claim`:
    the PersistentVolumeClaim on which all pods share the shards that they fetch, "" for a copy that ends with each pod.
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
    """The Workflow that does a unit. Its name is `workflow_name(unit, settings.run_number, settings.store)`."""
    labels = labels_of(settings, unit.kind, unit.size)
    annotations = {ANNOTATION_TASKS: json.dumps(unit.tasks), "scaling-study.dev/what": unit.label}
    templates = [_dag(unit, plan), *_templates(unit, plan, settings)]
    return workflow_of(workflow_name(unit, settings.run_number, settings.store), labels, annotations, "unit", templates, settings)


def workflow_of(
    name: str, labels: Document, annotations: Document, entrypoint: str, templates: list[Document], settings: PodSettings
) -> Document:
    """What every Workflow of ours has in common: owner, accounts, security, clearing away."""
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
            "ttlStrategy": {"secondsAfterSuccess": KEEP_SECONDS, "secondsAfterFailure": KEEP_FAILED_SECONDS},
            "securityContext": dict(SECURITY),
            "volumes": _volumes(settings),
            "templates": templates,
            **_placed(settings),
        },
    }


def labels_of(settings: PodSettings, kind: TaskKind, size: str = "") -> Document:
    """Labels of a Workflow and of all its pods."""
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


def _placed(settings: PodSettings) -> Document:
    """What the study asks of its nodes, over what the namespace's policy gives."""
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
    """What a label can hold of a digest."""
    return digest[:DIGEST_LABEL_LENGTH]


def _task_name(digest: str) -> str:
    return f"t-{short(digest)}"


def _templates(unit: Unit, plan: Plan, settings: PodSettings) -> list[Document]:
    kinds = dict.fromkeys(plan.tasks[digest].kind for digest in unit.tasks)
    return [_template(kind, unit, plan, settings) for kind in kinds]


def _template(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    labels = {LABEL_DIGEST: "{{inputs.parameters.short}}", LABEL_KIND: str(kind)}
    queue, several = settings.execution.queue, _nodes(kind, unit, settings) > 1
    metadata: Document = {"labels": labels}
    if queue and kind == TaskKind.TRAIN and not several:
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
        **(_over_nodes(unit, plan, settings, labels) if several else _in_one_pod(kind, unit, plan, settings)),
    }


def _nodes(kind: TaskKind, unit: Unit, settings: PodSettings) -> int:
    return settings.execution.nodes.get(unit.size, 1) if kind == TaskKind.TRAIN else 1


def _in_one_pod(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    return {
        "podSpecPatch": json.dumps({"terminationGracePeriodSeconds": grace_seconds(unit, plan, settings.execution)}),
        "container": _container(kind, unit, plan, settings),
    }


def _over_nodes(unit: Unit, plan: Plan, settings: PodSettings, labels: Document) -> Document:
    """A waiter, and what it makes: a JobSet whose pods are what one pod would be."""
    execution = settings.execution
    placed = _placed(settings)
    priority = placed.pop("podPriorityClassName", None)
    pod: Document = {
        "serviceAccountName": execution.service_account or TRAINER,
        "securityContext": dict(SECURITY),
        "terminationGracePeriodSeconds": grace_seconds(unit, plan, execution),
        "volumes": _volumes(settings),
        **placed,
        **({"priorityClassName": priority} if priority else {}),
    }
    trainer = _container(TaskKind.TRAIN, unit, plan, settings)
    every = {**labels_of(settings, TaskKind.TRAIN, unit.size), **labels}
    jobset = build_jobset(_nodes(TaskKind.TRAIN, unit, settings), trainer, pod, every, execution.queue, settings.namespace)
    waiter = container_of(settings.waiter_image, ["python", "-m", "orchestrator.controller.jobset_waiter"], [], settings)
    waiter.pop("envFrom", None)
    return waiting_template(jobset, waiter, grace_seconds(unit, plan, execution))


def grace_seconds(unit: Unit, plan: Plan, execution: Execution) -> int:
    """Between SIGTERM and SIGKILL: what the study says, else time for a step and for a checkpoint of the unit's size."""
    parameters = plan.shapes[unit.size].total if unit.size else 0
    return execution.grace_seconds or max(LEAST_GRACE, ceil(LEAST_GRACE / 2 + parameters * CHECKPOINT_BYTES / CHECKPOINT_BYTES_A_SECOND))


def _gpus(kind: TaskKind, unit: Unit, settings: PodSettings) -> int:
    """What a pod asks for: training all that the study says, an evaluation one of them, since it is one process."""
    of_training = settings.execution.gpus_per_pod.get(unit.size, 1)
    return {TaskKind.PREPARE: 0, TaskKind.TRAIN: of_training, TaskKind.EVALUATE: min(1, of_training)}[kind]


def _container(kind: TaskKind, unit: Unit, plan: Plan, settings: PodSettings) -> Document:
    gpus, nodes = _gpus(kind, unit, settings), _nodes(kind, unit, settings)
    image, arguments = settings.execution.image or "", _arguments(unit, plan, settings, gpus, nodes)
    container = container_of(image, ["python", "-m", "trainer"], arguments, settings)
    if resources := resources_of(settings.execution.resources.of(kind), gpus):
        container["resources"] = resources
    return container


def resources_of(asked: Resources, gpus: int) -> Document:
    """Requests and limits of a container: both for GPUs and memory, requests alone for cores, since what is idle may be used."""
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    if asked.memory is not None:
        limits["memory"] = asked.memory
    requests = {**limits, **({"cpu": written(asked.cpu)} if asked.cpu is not None else {})}
    return {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


def container_of(image: str, command: list[str], arguments: list[str], settings: PodSettings) -> Document:
    """The main container of a pod: no rights, no writing but to scratch, and the store's credentials."""
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
    """Where the files are that the unit's prepare tasks read."""
    needed: dict[str, None] = {}
    for digest in unit.tasks:
        task = plan.tasks[digest].task
        if isinstance(task, TokenizerTask):
            needed |= dict.fromkeys(part[0] for part in task.sources)
        elif isinstance(task, PrepareTask):
            needed |= dict.fromkeys((task.fingerprint, task.tokenizer))
    return [(fingerprint, path) for fingerprint in needed for path in settings.inputs.get(fingerprint, ())]
