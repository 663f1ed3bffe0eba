"""The summary that `scaling-study plan` shows: one document, printed as tables or as JSON.

`api.plan` builds it from a plan and its estimate. Numbers are computed here once; the tables only format them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator.contract.plan import CellStage, Plan
from orchestrator.contract.sizes import flops_causal, flops_palm
from orchestrator.contract.tasks import TrainTask
from orchestrator.planning.defaults import ResolvedSize, rates, resolve_size
from orchestrator.planning.estimate import CPU, Cost, Estimate, Price
from orchestrator.planning.repetition import Reading
from orchestrator.spec import Stage, StudySpec


@dataclass(frozen=True, slots=True)
class SizeRow:
    """A size in the recipes that train it with the same settings. `n`: parameters without the input embedding."""

    size: str
    body: int
    n: int
    total: int
    batch_sequences: int
    batch_tokens: int
    batch_from: str
    peak: str
    peak_from: str
    warmup: int
    warmup_from: str
    deviation: str
    flops_palm: int
    flops_causal: int


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage of a recipe over all its cells. Tuples are (minimum, maximum)."""

    recipe: str
    stage: str
    kind: str
    cells: int
    asked: tuple[int, int]
    tokens: tuple[int, int]
    steps: tuple[int, int]
    code_percent: tuple[str, str]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source and the cell that reads the most tokens of it. `epochs`: `2.10`, `~2.10` (estimated) or `?` (unknown)."""

    source: str
    group: str
    tokens: int | None
    exact: bool
    read: int
    epochs: str
    allowed: float
    cell: str


@dataclass(frozen=True, slots=True)
class CostRow:
    """Remaining work of one size, or of all. `seconds`: on one GPU; if the CPU is priced, on one worker, and `gpu_hours` is 0."""

    size: str
    tasks: int
    tokens: int
    flops: float
    seconds: float
    gpu_hours: float
    money: float | None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task of a plan. `needs`: digests of its dependencies. `tokens`: tokens that it trains. `state`: done or pending."""

    digest: str
    kind: str
    label: str
    needs: Sequence[str]
    tokens: int
    state: str


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Everything that `plan` shows.

    `saved_percent`: share of tokens that sharing saves. `rate_from`: origin of the CPU speed. `workers`: 0 if a GPU is priced.
    """

    study: str
    cells: int
    tasks: Mapping[str, int]
    done: int
    trained_tokens: int
    unshared_tokens: int
    saved_percent: float
    sizes: Sequence[SizeRow]
    stages: Sequence[StageRow]
    sources: Sequence[SourceRow]
    costs: Sequence[CostRow]
    total: CostRow
    gpu: str
    mfu: float
    rate_from: str
    workers: int
    longest_path: Sequence[str]
    longest_path_hours: float
    warnings: Sequence[str]

    def document(self) -> dict[str, object]:
        return asdict(self)


def summarize_plan(
    spec: StudySpec,
    plan: Plan,
    estimated: Estimate,
    price: Price,
    reads: Sequence[Reading],
    done: set[str],
    warnings: Iterable[str],
    *,
    rate_from: str = "",
    workers: int = 0,
) -> PlanSummary:
    """Return the summary of a plan."""
    kinds = Counter(str(task.kind) for task in plan.tasks.values())
    trained = estimated.total.tokens + estimated.done.tokens
    return PlanSummary(
        study=plan.study,
        cells=len(plan.cells),
        tasks=dict(kinds),
        done=len(done & plan.tasks.keys()),
        trained_tokens=trained,
        unshared_tokens=estimated.unshared_tokens,
        saved_percent=100 * (1 - trained / estimated.unshared_tokens) if estimated.unshared_tokens else 0.0,
        sizes=_size_rows(spec),
        stages=_stage_rows(plan),
        sources=[_source_row(plan, reading) for reading in reads],
        costs=[_cost_row(size, cost, price) for size, cost in estimated.by_size.items() if size],
        total=_cost_row("all", estimated.total, price),
        gpu=price.gpu,
        mfu=price.mfu,
        rate_from=rate_from,
        workers=workers,
        longest_path=[plan.tasks[digest].label for digest in estimated.longest_path],
        longest_path_hours=estimated.longest_seconds / 3600,
        warnings=[*_repetition_warnings(reads), *_budget_warnings(spec, estimated, price), *warnings],
    )


def task_rows(plan: Plan, done: Collection[str]) -> list[TaskRow]:
    """Return every task of the plan, in dependency order."""
    return [
        TaskRow(
            digest=digest,
            kind=str(task.kind),
            label=task.label,
            needs=task.needs,
            tokens=task.task.tokens - task.from_tokens if isinstance(task.task, TrainTask) else 0,
            state="done" if digest in done else "pending",
        )
        for digest, task in plan.tasks.items()
    ]


def _size_rows(spec: StudySpec) -> list[SizeRow]:
    rows: dict[SizeRow, None] = {}
    for recipe in spec.recipes:
        for name in recipe.sizes or spec.grid.sizes:
            rows[_size_row(spec, resolve_size(spec, recipe, name), recipe.stages)] = None
    return sorted(rows, key=lambda row: (row.n, row.size))


def _size_row(spec: StudySpec, size: ResolvedSize, stages: Sequence[Stage]) -> SizeRow:
    first = rates(spec, stages[0], size)
    shape = size.shape
    return SizeRow(
        size=size.name,
        body=shape.body,
        n=shape.n,
        total=shape.total,
        batch_sequences=size.batch,
        batch_tokens=size.tokens_per_step,
        batch_from=size.batch_from,
        peak=first.peak or "",
        peak_from=first.peak_from,
        warmup=first.warmup,
        warmup_from=first.warmup_from,
        deviation=size.deviation,
        flops_palm=flops_palm(shape, size.sequence_length),
        flops_causal=flops_causal(shape, size.sequence_length),
    )


def _stage_rows(plan: Plan) -> list[StageRow]:
    found: dict[tuple[str, int], list[CellStage]] = {}
    for cell in plan.cells:
        for index, stage in enumerate(cell.stages):
            found.setdefault((cell.recipe, index), []).append(stage)
    return [_stage_row(recipe, stages) for (recipe, _), stages in found.items()]


def _stage_row(recipe: str, stages: Sequence[CellStage]) -> StageRow:
    percents = sorted((stage.code_percent for stage in stages), key=float)
    return StageRow(
        recipe=recipe,
        stage=stages[0].name,
        kind=str(stages[0].kind),
        cells=len(stages),
        asked=_range(stage.asked for stage in stages),
        tokens=_range(stage.tokens for stage in stages),
        steps=_range(stage.steps for stage in stages),
        code_percent=(percents[0], percents[-1]),
    )


def _range(numbers: Iterable[int]) -> tuple[int, int]:
    seen = sorted(numbers)
    return seen[0], seen[-1]


def _source_row(plan: Plan, reading: Reading) -> SourceRow:
    group = next(source.group for source in plan.sources if source.name == reading.source)
    return SourceRow(
        source=reading.source,
        group=str(group),
        tokens=None if reading.of is None else reading.of.tokens,
        exact=reading.of is not None and reading.of.exact,
        read=reading.tokens,
        epochs=reading.epochs_text(),
        allowed=float(reading.allowed),
        cell=reading.cell,
    )


def _cost_row(size: str, cost: Cost, price: Price) -> CostRow:
    hours = 0.0 if price.gpu == CPU else cost.gpu_hours
    return CostRow(size, cost.tasks, cost.tokens, cost.flops, cost.gpu_seconds, hours, cost.money(price))


def _repetition_warnings(reads: Iterable[Reading]) -> list[str]:
    return [
        f"source {reading.source} is read {reading.epochs_text()} times by {reading.cell}"
        + (f", more than the {float(reading.allowed):g} allowed" if reading.is_over else "; repeated tokens add less")
        for reading in reads
        if reading.epochs is not None and reading.epochs > 1
    ]


def _budget_warnings(spec: StudySpec, estimated: Estimate, price: Price) -> list[str]:
    budget = spec.budget.gpu_hours
    if price.gpu == CPU or budget is None or estimated.total.gpu_hours <= float(budget):
        return []
    return [f"the estimate of {estimated.total.gpu_hours:,.0f} GPU-hours is above budget.gpuHours, {float(budget):,.0f}"]
