"""A snapshot of a study's state, local or on a cluster, with the values derived from it.

`status_reader` reads it from store and cluster; `cli.grid` draws it, and `log_sources` uses it to find logs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final

from orchestrator.cluster.port import Document
from orchestrator.cluster.study_object import phase_of
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.monitor.grid_table import AttemptProgress, CellProgress, ProgressEstimate
from orchestrator.reconcile.observed import ObservedPod
from orchestrator.reconcile.task_states import TaskState, TaskStatus
from orchestrator.store.leases import LeaseBody

ACTIVE: Final = (TaskState.RUNNING, TaskState.STALLED, TaskState.STOPPING, TaskState.AWAITED)


@dataclass(frozen=True, slots=True)
class ActiveTask:
    """A task that is being run. `lease`: of the attempt, None before it is taken. `pod`: "" for a process outside a cluster."""

    task: PlannedTask
    state: TaskState
    reason: str
    pod: str
    lease: LeaseBody | None


@dataclass(frozen=True)
class StudyView:
    """A snapshot of a study.

    `body`: the object in the cluster, None if no cluster was read. `plan`: None before planning or if the store is unreachable; then
    `trouble` gives the reason, and `reported_cells` holds the cells reported in the object's status. `pods`: of the study, on the cluster.
    `attempts`: the last lease of every task that was started and is not done; `attempt_progress`: its progress. `gpu_seconds`: recorded in
    the leases. `budget`: in GPU-hours, "" without one. `damaged`: digest -> reason, for tasks that are marked as finished but whose
    record is damaged or missing; they run again.
    """

    name: str
    now: datetime
    store: str
    body: Document | None = None
    namespace: str = ""
    plan: Plan | None = None
    trouble: str = ""
    reported_cells: tuple[CellProgress, ...] = ()
    tasks: Mapping[str, TaskStatus] = field(default_factory=dict)
    attempts: Mapping[str, LeaseBody] = field(default_factory=dict)
    attempt_progress: Mapping[str, AttemptProgress] = field(default_factory=dict)
    pods: tuple[ObservedPod, ...] = ()
    gpu_seconds: float = 0.0
    budget: str = ""
    damaged: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def counts(self) -> Counter[TaskState]:
        """Number of tasks by state."""
        return Counter(seen.state for seen in self.tasks.values())

    @cached_property
    def estimate(self) -> ProgressEstimate | None:
        """Progress and remaining time, None without a plan."""
        return None if self.plan is None else ProgressEstimate(self.plan, self.tasks, self.attempt_progress)

    @cached_property
    def cells(self) -> list[CellProgress]:
        """Every cell, in the order of the plan; empty if the cells are unknown."""
        return self.estimate.cells() if self.estimate else list(self.reported_cells)

    @cached_property
    def active_tasks(self) -> list[ActiveTask]:
        """Tasks that are being run, in the order of the plan."""
        if self.plan is None:
            return []
        return [
            ActiveTask(self.plan.tasks[digest], seen.state, seen.reason, seen.pod, self.attempts.get(digest))
            for digest, seen in self.tasks.items()
            if seen.state in ACTIVE
        ]

    @property
    def failed(self) -> dict[str, str]:
        """Reasons of permanently failed tasks, by digest."""
        return {digest: seen.reason for digest, seen in self.tasks.items() if seen.state == TaskState.FAILED}

    @property
    def held_back(self) -> set[str]:
        """Digests of tasks that need a failed task."""
        return {digest for digest, seen in self.tasks.items() if seen.state == TaskState.BLOCKED}

    @property
    def waits(self) -> dict[str, int]:
        """Number of queued tasks by the reason why they do not run yet, most frequent first."""
        reasons = Counter(seen.reason for seen in self.tasks.values() if seen.state == TaskState.QUEUED and seen.reason)
        return dict(reasons.most_common())

    @property
    def phase(self) -> str:
        """The phase in the object's status, otherwise derived from the store. Idle: tasks are ready and none runs."""
        if self.body is not None:
            return phase_of(self.body) or "Unseen"
        if self.counts[TaskState.DONE] == len(self.tasks):
            return "Succeeded"
        if any(self.counts[state] for state in ACTIVE):
            return "Running"
        return "Idle" if self.counts[TaskState.READY] else "Failed"

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all tasks are done, None if unknown."""
        return self.estimate.seconds_left() if self.estimate else None


def target_of(task: PlannedTask) -> int:
    """Return the tokens at which a training task ends; 0 for other kinds."""
    return task.task.tokens if task.kind == TaskKind.TRAIN and isinstance(task.task, TrainTask) else 0
