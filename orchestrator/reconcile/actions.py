"""The parts of a decision. The controller applies each action; all actions are idempotent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.reconcile.task_states import TaskStatus
from orchestrator.workflow import Unit


@dataclass(frozen=True, slots=True)
class Submit:
    """Write the `task.json` of the unit's tasks, then create its Workflow. An existing Workflow of the same name is identical."""

    unit: Unit
    run_number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Request the shutdown of a Workflow. Its pods write a checkpoint and exit with code 75."""

    workflow: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Workflow that has ended, so that another one can use its name."""

    workflow: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Delete the pod of a stalled task. Argo restarts the task from its checkpoint."""

    pod: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForceDelete:
    """Delete a pod on an unresponsive node without waiting for the node. Lease fencing keeps results correct if the pod still runs."""

    pod: str


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """Record in the lease of a killed attempt why the task failed permanently.

    The Workflow that holds the reason is deleted after its retention period.
    """

    digest: str
    attempt: int
    reason: str


Action: TypeAlias = Submit | Stop | Delete | Restart | ForceDelete | RecordFailure


@dataclass(frozen=True, slots=True)
class StudyEvent:
    """An event on the study, shown by `kubectl describe`. The sender aggregates equal events."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of one reconciliation.

    `status`: the complete status of the ScalingStudy, with the field names of the CRD. `tasks`: the task states behind it. `promised`:
    GPU-seconds that tasks in flight, including those submitted now, are still estimated to cost. `queued`: number of Workflows that wait
    only for the namespace's limit of concurrent Workflows.
    """

    actions: tuple[Action, ...]
    status: dict[str, Any]
    events: tuple[StudyEvent, ...]
    tasks: Mapping[str, TaskStatus]
    promised: float = 0.0
    queued: int = 0
