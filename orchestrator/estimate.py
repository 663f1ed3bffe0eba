"""What a plan costs: FLOPs, GPU-hours, money, and the longest path through it.

`plan` prints it, the controller admits by it. A price starts from FLOPs and a utilisation, and is corrected by what finished tasks of the
same size measured. Pure: records come in as tables.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.plan import CellStage, Plan, PlannedTask
from orchestrator.contract.tasks import EvaluateTask, TrainTask
from orchestrator.contract.words import TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.sizes import flops_palm

# Dense bf16 FLOPs a second, without sparsity, from the vendors' data sheets (NVIDIA A100 2020, H100/H200 SXM 2022/2023, B200 2024)
PEAK_FLOPS: Final[dict[str, float]] = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}

# Chowdhery et al. 2022, arXiv:2204.02311, report 46 % for PaLM; what a well-tuned run of these sizes reaches on H100s
DEFAULT_MFU: Final = 0.45

FORWARD_SHARE: Final = 1 / 3
"""Of the FLOPs of a training token, the part that the forward pass takes."""


@dataclass(frozen=True, slots=True)
class Price:
    """How tasks are priced. `measured`: GPU-seconds a token by size, where tasks of that size have finished."""

    gpu: str
    mfu: float
    per_gpu_hour: float | None
    measured: Mapping[str, float]

    def seconds(self, flops: float) -> float:
        """GPU-seconds for so many FLOPs. Raises PlanRefused for a GPU that is not in the table."""
        if self.gpu not in PEAK_FLOPS:
            raise PlanRefused(f"--gpu {self.gpu}: not a GPU that is known here ({', '.join(PEAK_FLOPS)})")
        if not 0 < self.mfu <= 1:
            raise PlanRefused(f"--mfu {self.mfu}: a utilisation is above 0 and at most 1, for example 0.45")
        return flops / (PEAK_FLOPS[self.gpu] * self.mfu)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one size, or of everything. `tokens` are those that are trained, each once however many cells share them."""

    tasks: int
    tokens: int
    flops: float
    gpu_seconds: float

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / 3600

    def money(self, price: Price) -> float | None:
        return None if price.per_gpu_hour is None else self.gpu_hours * price.per_gpu_hour

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tasks + other.tasks, self.tokens + other.tokens, self.flops + other.flops, self.gpu_seconds + other.gpu_seconds)


NOTHING: Final = Cost(0, 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to do and what it costs. `unshared_tokens`: what the cells would train if each trained alone."""

    by_size: Mapping[str, Cost]
    total: Cost
    done: Cost
    unshared_tokens: int
    longest_path: tuple[str, ...]
    longest_seconds: float


def cost(plan: Plan, task: PlannedTask, price: Price) -> Cost:
    """The cost of one task. `prepare` runs on CPUs and costs no GPU-seconds."""
    if task.kind == TaskKind.PREPARE:
        return Cost(1, 0, 0.0, 0.0)
    shape = plan.shapes[task.size]
    if isinstance(task.task, TrainTask):
        tokens = task.task.tokens - task.from_tokens
        flops = float(tokens) * flops_palm(shape, task.task.trajectory.sequence_length)
        measured = price.measured.get(task.size)
        return Cost(1, tokens, flops, price.seconds(flops) if measured is None else measured * tokens)
    assert isinstance(task.task, EvaluateTask)
    # An upper bound: every scored document as long as a window; named benchmarks are priced like 2,000 of them
    documents = task.task.items.get("documents", 2000)
    flops = float(documents) * plan.sequence_length * flops_palm(shape, plan.sequence_length) * FORWARD_SHARE
    return Cost(1, 0, flops, price.seconds(flops))


def estimate(plan: Plan, price: Price, done: Iterable[str] = ()) -> Estimate:
    """The price of a plan, less the tasks in `done`. Raises PlanRefused for a GPU or a utilisation that cannot be."""
    finished = set(done)
    costs = {digest: cost(plan, task, price) for digest, task in plan.tasks.items()}
    by_size: dict[str, Cost] = defaultdict(lambda: NOTHING)
    total = spent = NOTHING
    for digest, task in plan.tasks.items():
        if digest in finished:
            spent += costs[digest]
        else:
            by_size[task.size] += costs[digest]
            total += costs[digest]
    path, seconds = _longest_path(plan, costs, finished)
    unshared = sum(tokens_alone(plan, stage) for cell in plan.cells for stage in cell.stages)
    return Estimate(dict(by_size), total, spent, unshared, path, seconds)


def tokens_alone(plan: Plan, stage: CellStage) -> int:
    """Tokens that a cell would train in this stage if it shared nothing: every trajectory to the furthest point it needs."""
    furthest: dict[str, int] = {}
    for digest in stage.trains:
        planned = plan.tasks[digest]
        assert isinstance(planned.task, TrainTask)
        furthest[planned.work] = max(furthest.get(planned.work, 0), planned.task.tokens)
    return sum(furthest.values())


def _longest_path(plan: Plan, costs: Mapping[str, Cost], finished: set[str]) -> tuple[tuple[str, ...], float]:
    """Digests of the tasks that no number of GPUs can run side by side, and their GPU-seconds on one GPU each."""
    ends: dict[str, tuple[float, str]] = {}
    for digest in _in_order(plan):
        before = max(((ends[need][0], need) for need in plan.tasks[digest].needs if need in ends), default=(0.0, ""))
        own = 0.0 if digest in finished else costs[digest].gpu_seconds
        ends[digest] = (before[0] + own, before[1])
    last = max(ends, key=lambda digest: ends[digest][0])
    path = [last]
    while ends[path[-1]][1]:
        path.append(ends[path[-1]][1])
    return tuple(reversed(path)), ends[last][0]


def _in_order(plan: Plan) -> Iterable[str]:
    """Digests, every task after what it needs."""
    placed: dict[str, None] = {}
    for digest in plan.tasks:
        waiting = [digest]
        while waiting:
            open_needs = [need for need in plan.tasks[waiting[-1]].needs if need not in placed]
            if open_needs:
                waiting.extend(open_needs)
            else:
                placed.setdefault(waiting.pop())
    return placed
