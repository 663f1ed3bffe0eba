"""Budget and execution of a study: nothing here is part of an identity."""

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.spec.fields import BySize, Choice, Image, Line, Memory, ObjectName, Part, Sequences, SizeName, number, whole

Operator: TypeAlias = Annotated[Literal["Exists", "Equal"], Choice(("Exists", "Equal"))]
Effect: TypeAlias = Annotated[
    Literal["NoSchedule", "PreferNoSchedule", "NoExecute"], Choice(("NoSchedule", "PreferNoSchedule", "NoExecute"))
]
Gpus: TypeAlias = Annotated[int, whole("8", 0, 1024)]
Nodes: TypeAlias = Annotated[int, whole("2", 1, 1024)]
Cores: TypeAlias = Annotated[Decimal, number("4", 0, "1024", above=True)]


class Budget(Part):
    """The maximum cost of the study."""

    gpu_hours: Annotated[Decimal, number("300000", 0, above=True)] | None = Field(None, description="No run is started that passes it.")


class Toleration(Part):
    """A Kubernetes toleration for pods of the study."""

    key: Line | None = Field(None, description="Key of the taint; every key unless given.")
    operator: Operator = Field("Equal", description="How `value` is compared.")
    value: Line | None = Field(None, description="Value of the taint.")
    effect: Effect | None = Field(None, description="Effect of the taint; every effect unless given.")


class Resources(Part):
    """Resource requests of a pod besides GPUs."""

    cpu: Cores | None = Field(None, description="Cores that are set aside for it; it may use more.")
    memory: Memory | None = Field(None, description="Memory that is set aside for it, and the most that it may use.")


class ResourcesByKind(Part):
    """Resource requests of pods by kind of task, so that the scheduler starts only pods that fit."""

    prepare: Resources = Field(Resources(), description="Of pods that turn files into tokens.")
    train: Resources = Field(Resources(), description="Of pods that train.")
    evaluate: Resources = Field(Resources(), description="Of pods that score a model.")

    def of(self, kind: TaskKind) -> Resources:
        """Return the resource requests of a pod for tasks of this kind."""
        return {TaskKind.PREPARE: self.prepare, TaskKind.TRAIN: self.train, TaskKind.EVALUATE: self.evaluate}[kind]


class Execution(Part):
    """Where and how the study runs; never part of an identity."""

    image: Image | None = Field(None, description="Image of the trainer, best by digest.")
    gpus_per_pod: dict[SizeName, Gpus] = Field({}, max_length=64, description="GPUs of a training pod by size; 1 unless given.")
    nodes: dict[SizeName, Nodes] = Field({}, max_length=64, description="Nodes of a training task by size; 1 unless given.")
    resources: ResourcesByKind = Field(ResourcesByKind(), description="Cores and memory of a pod, by what it does.")
    micro_batch: BySize[Sequences] | None = Field(
        None, description="Sequences a forward pass on one GPU, one or by size; as many as fit unless given."
    )
    queue: ObjectName | None = Field(None, description="Kueue's queue for training pods.")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    service_account: ObjectName | None = Field(None, description="ServiceAccount of the Workflows.")
    pull_secrets: tuple[ObjectName, ...] = Field((), max_length=16, description="Secrets that pull the image.")
    store_secret: ObjectName | None = Field(None, description="Secret whose keys are the store's environment variables.")
    node_selector: dict[Line, Line] = Field({}, max_length=32, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=32, description="Taints that the pods ignore.")
    grace_seconds: Annotated[int, whole("120", 1, 3600)] | None = Field(
        None, description="Between SIGTERM and SIGKILL, for a last checkpoint; 120 or more, by size, unless given."
    )
