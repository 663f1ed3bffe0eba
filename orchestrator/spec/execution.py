"""Budget and execution of a study, which are not part of any task's identity."""

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.spec.fields import BySize, Choice, Image, Line, Memory, ObjectName, Sequences, SizeName, SpecModel, integer, number

Operator: TypeAlias = Annotated[Literal["Exists", "Equal"], Choice(("Exists", "Equal"))]
Effect: TypeAlias = Annotated[
    Literal["NoSchedule", "PreferNoSchedule", "NoExecute"], Choice(("NoSchedule", "PreferNoSchedule", "NoExecute"))
]
Gpus: TypeAlias = Annotated[int, integer("8", 0, 1024)]
Nodes: TypeAlias = Annotated[int, integer("2", 1, 1024)]
Cores: TypeAlias = Annotated[Decimal, number("4", 0, "1024", above=True)]


class Budget(SpecModel):
    """The maximum cost of the study."""

    gpu_hours: Annotated[Decimal, number("300000", 0, above=True)] | None = Field(
        None, description="Maximum GPU-hours; a run that would exceed it is not started."
    )


class Toleration(SpecModel):
    """A Kubernetes toleration for pods of the study."""

    key: Line | None = Field(None, description="Key of the taint. Default: every key.")
    operator: Operator = Field("Equal", description="Comparison of `value`.")
    value: Line | None = Field(None, description="Value of the taint.")
    effect: Effect | None = Field(None, description="Effect of the taint. Default: every effect.")


class Resources(SpecModel):
    """Resource requests of a pod besides GPUs."""

    cpu: Cores | None = Field(None, description="CPU request in cores; there is no limit.")
    memory: Memory | None = Field(None, description="Memory request and limit.")


class ResourcesByKind(SpecModel):
    """Resource requests of pods by kind of task, so that the scheduler starts only pods that fit."""

    prepare: Resources = Field(Resources(), description="Resources of pods that tokenize files.")
    train: Resources = Field(Resources(), description="Resources of training pods.")
    evaluate: Resources = Field(Resources(), description="Resources of evaluation pods.")

    def of(self, kind: TaskKind) -> Resources:
        """Return the resource requests of a pod for tasks of this kind."""
        return {TaskKind.PREPARE: self.prepare, TaskKind.TRAIN: self.train, TaskKind.EVALUATE: self.evaluate}[kind]


class Execution(SpecModel):
    """Where and how the study runs; not part of any task's identity."""

    image: Image | None = Field(None, description="Image of the trainer, preferably by digest.")
    gpus_per_pod: dict[SizeName, Gpus] = Field({}, max_length=64, description="GPUs per training pod by size. Default: 1.")
    nodes: dict[SizeName, Nodes] = Field({}, max_length=64, description="Nodes per training task by size. Default: 1.")
    resources: ResourcesByKind = Field(ResourcesByKind(), description="CPU and memory of pods by kind of task.")
    micro_batch: BySize[Sequences] | None = Field(
        None, description="Sequences per forward pass on one GPU, one value or by size. Default: as many as fit."
    )
    queue: ObjectName | None = Field(None, description="Kueue LocalQueue of training pods.")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    service_account: ObjectName | None = Field(None, description="ServiceAccount of the Workflows.")
    pull_secrets: tuple[ObjectName, ...] = Field((), max_length=16, description="Image pull Secrets.")
    store_secret: ObjectName | None = Field(None, description="Secret with the environment variables for the store's credentials.")
    node_selector: dict[Line, Line] = Field({}, max_length=32, description="Node labels that the pods require.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=32, description="Tolerations of the pods.")
    grace_seconds: Annotated[int, integer("120", 1, 3600)] | None = Field(
        None, description="Seconds between SIGTERM and SIGKILL, for a last checkpoint. Default: 120 or more, by size."
    )
