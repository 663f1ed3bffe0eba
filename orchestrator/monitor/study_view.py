"""What there is to see of a study at one moment, wherever it runs: data, and what follows from it.

`lookout` reads it from store and cluster; `cli.grid` draws it, `log_sources` finds logs by it.
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
from orchestrator.monitor.grid_table import CellStanding, Reckoning, Work
from orchestrator.reconcile.observe import PodSeen, TaskSeen, TaskState
from orchestrator.store.leases import LeaseBody

AT_WORK: Final = (TaskState.RUNNING, TaskState.STALLED, TaskState.STOPPING, TaskState.AWAITED)


@dataclass(frozen=True, slots=True)
class AtWork:
    """A task that somebody works on. `lease`: of the attempt, None before it has one. `pod`: "" for a process without a pod."""

    task: PlannedTask
    state: TaskState
    reason: str
    pod: str
    lease: LeaseBody | None


@dataclass(frozen=True)
class StudyView:
    """A study at one moment.

    `body`: the cluster's object, None for a study that no cluster was asked about. `plan`: None where there is none yet, or where the
    store is out of reach; `trouble` says which, and `told` has the cells as the object tells of them. `pods`: of the study, on the
    cluster. `attempts`: the last lease of every task that was begun and is not done, `works` how far it has come. `gpu_seconds`: by the
    leases.
    """

    name: str
    now: datetime
    store: str
    body: Document | None = None
    namespace: str = ""
    plan: Plan | None = None
    trouble: str = ""
    told: tuple[CellStanding, ...] = ()
    tasks: Mapping[str, TaskSeen] = field(default_factory=dict)
    attempts: Mapping[str, LeaseBody] = field(default_factory=dict)
    works: Mapping[str, Work] = field(default_factory=dict)
    pods: tuple[PodSeen, ...] = ()
    gpu_seconds: float = 0.0
    budget: str = ""

    @cached_property
    def counts(self) -> Counter[TaskState]:
        """Tasks by state."""
        return Counter(seen.state for seen in self.tasks.values())

    @cached_property
    def reckoning(self) -> Reckoning | None:
        """Progress and time left, None without a plan."""
        return None if self.plan is None else Reckoning(self.plan, self.tasks, self.works)

    @cached_property
    def cells(self) -> list[CellStanding]:
        """Every cell, in the order of the plan; none where nobody knows them."""
        return self.reckoning.cells() if self.reckoning else list(self.told)

    @cached_property
    def at_work(self) -> list[AtWork]:
        """Tasks in work, in the order of the plan."""
        if self.plan is None:
            return []
        return [
            AtWork(self.plan.tasks[digest], seen.state, seen.reason, seen.pod, self.attempts.get(digest))
            for digest, seen in self.tasks.items()
            if seen.state in AT_WORK
        ]

    @property
    def failed(self) -> dict[str, str]:
        """Tasks that no retry of ours can mend, and why."""
        return {digest: seen.reason for digest, seen in self.tasks.items() if seen.state == TaskState.FAILED}

    @property
    def held_back(self) -> set[str]:
        """Tasks that need a failed one."""
        return {digest for digest, seen in self.tasks.items() if seen.state == TaskState.BLOCKED}

    @property
    def waits(self) -> dict[str, int]:
        """Why what was submitted does not run, and how many tasks that holds up."""
        reasons = Counter(seen.reason for seen in self.tasks.values() if seen.state == TaskState.QUEUED and seen.reason)
        return dict(reasons.most_common())

    @property
    def phase(self) -> str:
        """One word for the whole: the controller's, else by what the store says. Idle: it could go on, and nobody works on it."""
        if self.body is not None:
            return phase_of(self.body) or "Unseen"
        if self.counts[TaskState.DONE] == len(self.tasks):
            return "Succeeded"
        if any(self.counts[state] for state in AT_WORK):
            return "Running"
        return "Idle" if self.counts[TaskState.READY] else "Failed"

    @property
    def seconds_left(self) -> float | None:
        """Until all is done, None while nobody can know."""
        return self.reckoning.seconds_left() if self.reckoning else None


def target_of(task: PlannedTask) -> int:
    """Tokens at which a train task ends, 0 for one that counts none."""
    return task.task.tokens if task.kind == TaskKind.TRAIN and isinstance(task.task, TrainTask) else 0
