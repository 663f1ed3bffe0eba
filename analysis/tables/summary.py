"""Totals of a study's records, and the state of every cell with its missing tasks.

`report` shows them above and below the figures.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.tables.frame import Records
from orchestrator.contract.plan import Cell, Plan, PlannedTask
from orchestrator.contract.record import Attempt
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind


@dataclass(frozen=True, slots=True)
class StudySummary:
    """Totals over the records of a study.

    `tokens`: trained tokens, without those lost to restarts; each trajectory counts once, even if several cells share it. `versions`: one
    entry per package and version, for example "torch 2.13.0".
    """

    cells_done: int
    cells: int
    tasks_done: int
    tasks: int
    tokens: int
    tokens_lost: int
    attempts: int
    cpu_seconds: float
    gpu_seconds: float
    commits: tuple[str, ...]
    versions: tuple[str, ...]
    processors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellState:
    """Progress of a cell.

    `missing`: descriptions of the missing tasks whose inputs are complete. `waiting`: number of missing tasks that depend on them.
    """

    cell: Cell
    done: int
    total: int
    missing: tuple[str, ...]
    waiting: int

    @property
    def complete(self) -> bool:
        return self.done == self.total


def summarize_study(plan: Plan, records: Records) -> StudySummary:
    """Return the totals over the plan's records.

    An attempt that appears in two records counts once.
    """
    attempts = _attempts(plan, records)
    states = cell_states(plan, records)
    return StudySummary(
        cells_done=sum(state.complete for state in states),
        cells=len(states),
        tasks_done=sum(digest in records for digest in plan.tasks),
        tasks=len(plan.tasks),
        tokens=_tokens(plan, records),
        tokens_lost=sum(attempt.tokens_lost for attempt in attempts),
        attempts=len(attempts),
        cpu_seconds=sum(attempt.cpu_seconds for attempt in attempts),
        gpu_seconds=sum(attempt.gpu_seconds for attempt in attempts),
        commits=_unique(_commit(attempt) for attempt in attempts if attempt.commit),
        versions=_unique(f"{name} {version}" for attempt in attempts for name, version in attempt.versions.items()),
        processors=_unique(attempt.processor for attempt in attempts if attempt.processor),
    )


def cell_states(plan: Plan, records: Records) -> list[CellState]:
    """Return the state of every cell, in the order of the plan."""
    cache: dict[str, tuple[str, ...]] = {}
    return [_cell_state(plan, cell, records, cache) for cell in plan.cells]


def _cell_state(plan: Plan, cell: Cell, records: Records, cache: dict[str, tuple[str, ...]]) -> CellState:
    tasks = cell.tasks
    missing = [digest for digest in tasks if digest not in records]
    ready = list(dict.fromkeys(root for digest in missing for root in _ready_tasks(plan, digest, records, cache)))
    descriptions = tuple(_describe(plan, cell, plan.tasks[digest]) for digest in ready)
    return CellState(cell, len(tasks) - len(missing), len(tasks), descriptions, len(set(missing) - set(ready)))


def _ready_tasks(plan: Plan, digest: str, records: Records, cache: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the missing tasks upstream of `digest` whose inputs are complete, or `digest` itself; fills `cache`."""
    if digest not in cache:
        needs = [need for need in plan.tasks[digest].needs if need not in records and need in plan.tasks]
        ready = dict.fromkeys(root for need in needs for root in _ready_tasks(plan, need, records, cache))
        cache[digest] = tuple(ready) or (digest,)
    return cache[digest]


def _describe(plan: Plan, cell: Cell, task: PlannedTask) -> str:
    short = task.digest[:12]
    for stage in cell.stages:
        if task.digest in stage.trains:
            return f"train {stage.name} ({short})"
        for evaluation in stage.evaluations:
            if evaluation.digest == task.digest:
                source = f" of {evaluation.source}" if evaluation.source else ""
                return f"{evaluation.suite}{source} after {stage.name} ({short})"
    names = [source.name for source in plan.sources if source.digest == task.digest]
    name = "the tokenizer" if task.digest == plan.tokenizer else names[0] if names else task.label
    return f"{task.kind} {name} ({short})"


def _attempts(plan: Plan, records: Records) -> list[Attempt]:
    unique: dict[tuple[str, int], Attempt] = {}
    for digest, task in plan.tasks.items():
        if digest in records:
            unique.update({(task.work, attempt.number): attempt for attempt in records[digest].attempts})
    return list(unique.values())


def _tokens(plan: Plan, records: Records) -> int:
    reached: dict[str, int] = {}
    for digest, task in plan.tasks.items():
        if task.kind == TaskKind.TRAIN and digest in records and isinstance(task.task, TrainTask):
            reached[task.work] = max(task.task.tokens, reached.get(task.work, 0))
    return sum(reached.values())


def _commit(attempt: Attempt) -> str:
    return attempt.commit[:12] + (" with local changes" if attempt.dirty else "")


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))
