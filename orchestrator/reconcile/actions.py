"""What a decision consists of. The controller knows how to apply each; all of them may be applied twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.reconcile.observe import TaskSeen
from orchestrator.workflow import Unit


@dataclass(frozen=True, slots=True)
class Submit:
    """Create the unit's Workflow, after the `task.json` of its tasks. One that is there under the same name is the same."""

    unit: Unit
    run_number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a Workflow to shut down: its pods write a checkpoint and end with 75."""

    workflow: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Workflow that is over and whose place is needed."""

    workflow: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Delete a pod that makes no step; Argo starts the task again, from its checkpoint."""

    pod: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForceDelete:
    """Delete a pod whose node does not answer, without waiting for the node. Fencing keeps the results right."""

    pod: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Write into the lease of an attempt that was killed why there will be no other: the Workflow that says so is deleted some day."""

    digest: str
    attempt: int
    reason: str


Action: TypeAlias = Submit | Stop | Delete | Restart | ForceDelete | GiveUp


@dataclass(frozen=True, slots=True)
class StudyEvent:
    """An event on the study, for `kubectl describe`. Equal ones are aggregated by whoever sends them."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`status`: the whole status of the ScalingStudy, in the names of the CRD. `tasks`: what it rests on, for whoever looks on.

    `promised`: GPU-seconds that what is in flight, with what is submitted now, is still estimated to cost. `queued`: Workflows that could
    start if the namespace had places for them.
    """

    actions: tuple[Action, ...]
    status: dict[str, Any]
    events: tuple[StudyEvent, ...]
    tasks: Mapping[str, TaskSeen]
    promised: float = 0.0
    queued: int = 0
