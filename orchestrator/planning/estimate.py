"""Estimate the cost of a plan: FLOPs, GPU-hours, money, and the longest path through it.

`plan` prints it; the controller admits Workflows with it. A price is computed from FLOPs and a utilisation, and replaced by measurements
of finished tasks of the same size. Pure: measurements are passed in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrator.contract.plan import CellStage, Plan, PlannedTask
from orchestrator.contract.sizes import TINY_BELOW, flops_palm
from orchestrator.contract.tasks import EvaluateTask, TrainTask
from orchestrator.errors import PlanRefused

# Dense bf16 FLOPs a second, without sparsity, from the vendors' data sheets (NVIDIA A100 2020, H100/H200 SXM 2022/2023, B200 2024)
PEAK_FLOPS: Final[dict[str, float]] = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}

CPU: Final = "cpu"
"""Prices work on this machine's CPU, in seconds of one worker."""
# demo.yaml: 14.3 TFLOP by 2 workers of one thread in 298 s, on 2 cores of a shared test machine, November 2026
CPU_WORKER_FLOPS: Final = 24e9

# Chowdhery et al. 2022, arXiv:2204.02311, report 46 % for PaLM; typical for well-tuned runs of these sizes on H100s
DEFAULT_MFU: Final = 0.45

FORWARD_SHARE: Final = 1 / 3
"""Share of the forward pass in the FLOPs of a training token."""


@dataclass(frozen=True, slots=True)
class Price:
    """How tasks are priced. `measured`: seconds per token by size on the priced processor, for sizes with finished tasks."""

    gpu: str
    mfu: float
    per_gpu_hour: float | None
    measured: Mapping[str, float]

    def seconds(self, flops: float) -> float:
        """Return the seconds of one processor for `flops`. Raises PlanRefused for an unknown GPU or an impossible utilisation."""
        if self.gpu not in (CPU, *PEAK_FLOPS):
            raise PlanRefused(f"--gpu {self.gpu}: unknown GPU; known are ({', '.join((CPU, *PEAK_FLOPS))})")
        if not 0 < self.mfu <= 1:
            raise PlanRefused(f"--mfu {self.mfu}: must be above 0 and at most 1, for example 0.45")
        if self.gpu == CPU:
            return flops / CPU_WORKER_FLOPS
        return flops / (PEAK_FLOPS[self.gpu] * self.mfu)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one size, or of everything. `tokens`: trained tokens, counted once even if cells share them."""

    tasks: int
    tokens: int
    flops: float
    gpu_seconds: float

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / 3600

    def money(self, price: Price) -> float | None:
        return None if price.per_gpu_hour is None else self.gpu_hours * price.per_gpu_hour

    def __mul__(self, number: int) -> "Cost":
        return Cost(self.tasks * number, self.tokens * number, self.flops * number, self.gpu_seconds * number)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tasks + other.tasks, self.tokens + other.tokens, self.flops + other.flops, self.gpu_seconds + other.gpu_seconds)


NOTHING: Final = Cost(0, 0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The remaining work and its cost. `unshared_tokens`: tokens that the cells would train without sharing."""

    by_size: Mapping[str, Cost]
    total: Cost
    done: Cost
    unshared_tokens: int
    longest_path: tuple[str, ...]
    longest_seconds: float


def default_processor(plan: Plan) -> str:
    """Return the default processor to price: the CPU for a plan of small shapes only, else an H100."""
    return CPU if plan.shapes and all(shape.n < TINY_BELOW for shape in plan.shapes.values()) else "h100"


def cost(plan: Plan, task: PlannedTask, price: Price) -> Cost:
    """Return the cost of one task. Prepare tasks run on CPUs and cost no GPU-seconds."""
    return _cost_of(plan, _load(plan, task), price)


def costs(plan: Plan, price: Price) -> dict[str, Cost]:
    """Return the cost of every task by digest."""
    loads = {digest: _load(plan, task) for digest, task in plan.tasks.items()}
    known = {load: _cost_of(plan, load, price) for load in set(loads.values())}
    return {digest: known[load] for digest, load in loads.items()}


class _Load(NamedTuple):
    """What the cost of a task depends on; thousands of tasks share one value. `tokens`: trained, or scored if not `trains`."""

    size: str
    tokens: int
    window: int
    trains: bool


def _load(plan: Plan, planned: PlannedTask) -> _Load:
    task = planned.task
    if isinstance(task, TrainTask):
        return _Load(planned.size, task.tokens - planned.from_tokens, task.trajectory.sequence_length, True)
    if isinstance(task, EvaluateTask):
        # upper bound: every scored document fills a window; a named benchmark is priced like 2,000 documents
        window = plan.window_of(planned)
        return _Load(planned.size, task.items.get("documents", 2000) * window, window, False)
    return _Load("", 0, 0, False)


def _cost_of(plan: Plan, load: _Load, price: Price) -> Cost:
    if not load.size:
        return Cost(1, 0, 0.0, 0.0)
    flops = float(load.tokens) * flops_palm(plan.shapes[load.size], load.window)
    if not load.trains:
        return Cost(1, 0, flops * FORWARD_SHARE, price.seconds(flops * FORWARD_SHARE))
    measured = price.measured.get(load.size)
    return Cost(1, load.tokens, flops, price.seconds(flops) if measured is None else measured * load.tokens)


def estimate(plan: Plan, price: Price, done: Iterable[str] = ()) -> Estimate:
    """Return the cost of a plan without the tasks in `done`. Raises PlanRefused for an unknown GPU or an impossible utilisation."""
    finished = set(done)
    loads = {digest: _load(plan, task) for digest, task in plan.tasks.items()}
    each = {load: _cost_of(plan, load, price) for load in set(loads.values())}
    left = Counter(load for digest, load in loads.items() if digest not in finished)
    spent = Counter(load for digest, load in loads.items() if digest in finished)
    by_size: dict[str, Cost] = {}
    for load, number in left.items():
        by_size[load.size] = by_size.get(load.size, NOTHING) + each[load] * number
    seconds = {digest: 0.0 if digest in finished else each[load].gpu_seconds for digest, load in loads.items()}
    path, longest = _longest_path(plan, seconds)
    unshared = sum(tokens_alone(plan, stage) for cell in plan.cells for stage in cell.stages)
    done_so_far = sum((each[load] * number for load, number in spent.items()), NOTHING)
    return Estimate(by_size, sum(by_size.values(), NOTHING), done_so_far, unshared, path, longest)


def tokens_alone(plan: Plan, stage: CellStage) -> int:
    """Return the tokens that a cell would train in this stage without sharing: each trajectory up to the furthest point needed."""
    furthest: dict[str, int] = {}
    for digest in stage.trains:
        planned = plan.tasks[digest]
        assert isinstance(planned.task, TrainTask)
        furthest[planned.work] = max(furthest.get(planned.work, 0), planned.task.tokens)
    return sum(furthest.values())


def _longest_path(plan: Plan, seconds: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """Return the digests of the longest chain of dependent tasks, and its seconds with one processor per task."""
    ends: dict[str, float] = {}
    before: dict[str, str] = {}
    for digest, task in plan.tasks.items():
        latest, need = 0.0, ""
        for other in task.needs:
            if (end := ends.get(other, 0.0)) > latest:
                latest, need = end, other
        ends[digest] = latest + seconds[digest]
        before[digest] = need
    last = max(ends, key=ends.__getitem__)
    path = [last]
    while need := before[path[-1]]:
        path.append(need)
    return tuple(reversed(path)), ends[last]
