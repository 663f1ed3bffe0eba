"""What a study has done so far, in a few numbers, and what is still missing, by name.

`report` shows it above and below the figures. It reads the plan and the records, never a clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.tables.frame import Records
from orchestrator.contract.plan import Cell, Plan, PlannedTask
from orchestrator.contract.record import Attempt
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind


@dataclass(frozen=True, slots=True)
class Facts:
    """`tokens`: trained and kept, each once however many cells share it. `versions`: "torch 2.13.0", one a package and version."""

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
    """`missing`: the tasks that could run now, in words; `waiting`: how many more wait for them."""

    cell: Cell
    done: int
    total: int
    missing: tuple[str, ...]
    waiting: int

    @property
    def complete(self) -> bool:
        return self.done == self.total


def facts(plan: Plan, records: Records) -> Facts:
    """Sums over the plan's records. An attempt that two records name counts once."""
    attempts = _attempts(plan, records)
    states = cell_states(plan, records)
    return Facts(
        cells_done=sum(state.complete for state in states),
        cells=len(states),
        tasks_done=sum(digest in records for digest in plan.tasks),
        tasks=len(plan.tasks),
        tokens=_tokens(plan, records),
        tokens_lost=sum(attempt.tokens_lost for attempt in attempts),
        attempts=len(attempts),
        cpu_seconds=sum(attempt.cpu_seconds for attempt in attempts),
        gpu_seconds=sum(attempt.gpu_seconds for attempt in attempts),
        commits=_each(attempt.commit[:12] + (" with changes" if attempt.dirty else "") for attempt in attempts if attempt.commit),
        versions=_each(f"{name} {version}" for attempt in attempts for name, version in attempt.versions.items()),
        processors=_each(attempt.processor for attempt in attempts if attempt.processor),
    )


def cell_states(plan: Plan, records: Records) -> list[CellState]:
    """Every cell in the order of the plan, and what it still lacks."""
    roots: dict[str, tuple[str, ...]] = {}
    return [_cell_state(plan, cell, records, roots) for cell in plan.cells]


def _cell_state(plan: Plan, cell: Cell, records: Records, known: dict[str, tuple[str, ...]]) -> CellState:
    own = cell.tasks
    missing = [digest for digest in own if digest not in records]
    roots = list(dict.fromkeys(root for digest in missing for root in _roots(plan, digest, records, known)))
    names = tuple(_in_words(plan, cell, plan.tasks[digest]) for digest in roots)
    return CellState(cell, len(own) - len(missing), len(own), names, len(set(missing) - set(roots)))


def _roots(plan: Plan, digest: str, records: Records, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The missing tasks that `digest` waits for and that wait for nothing themselves; itself if there are none. `known` is filled."""
    if digest not in known:
        waits = [need for need in plan.tasks[digest].needs if need not in records and need in plan.tasks]
        found = dict.fromkeys(root for need in waits for root in _roots(plan, need, records, known))
        known[digest] = tuple(found) or (digest,)
    return known[digest]


def _in_words(plan: Plan, cell: Cell, task: PlannedTask) -> str:
    short = task.digest[:12]
    for stage in cell.stages:
        if task.digest in stage.trains:
            return f"train {stage.name} ({short})"
        for evaluation in stage.evaluations:
            if evaluation.digest == task.digest:
                of = f" of {evaluation.source}" if evaluation.source else ""
                return f"{evaluation.suite}{of} after {stage.name} ({short})"
    names = [source.name for source in plan.sources if source.digest == task.digest]
    what = "the tokenizer" if task.digest == plan.tokenizer else names[0] if names else task.label
    return f"{task.kind} {what} ({short})"


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


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))
