"""A synthetic study: a plan with real digests, and records whose results come from a formula.

Tests of code that reads plans and records use it. Nothing is random: the "seed noise" is a hash, so equal calls give equal bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from orchestrator.contract.identity import NUMERICS, coprime, decimal, digest_of, digest_of_text
from orchestrator.contract.plan import Cell, CellStage, Evaluation, Plan, PlannedSource, PlannedTask
from orchestrator.contract.record import Attempt, Record
from orchestrator.contract.tasks import (
    EvaluateTask,
    FromInitialisation,
    FromState,
    Optimizer,
    PrepareTask,
    Reader,
    Schedule,
    Shape,
    Task,
    TokenizerTask,
    TrainTask,
    Trajectory,
    digest_of_task,
)
from orchestrator.contract.vocabulary import LOSS, TaskKind
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.metrics import append
from orchestrator.store.records import publish_record

SEQUENCE: int = 128
BATCH: int = 4
STEP: int = SEQUENCE * BATCH
_OPTIMIZER = Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5")
_SHAPES = {"0.03M": (32, 2, 1, 96), "0.09M": (48, 3, 2, 144), "0.24M": (80, 3, 2, 224), "0.6M": (128, 3, 4, 352)}


def shape(size: str) -> Shape:
    """Return one of four tiny shapes."""
    width, layers, heads, feed_forward = _SHAPES[size]
    return Shape(width, layers, heads, feed_forward, 1024, True, 10_000, "1e-5")


SIZES: tuple[str, ...] = tuple(_SHAPES)


@dataclass(frozen=True)
class SyntheticStage:
    """A stage of a recipe.

    `code_percent`: None for the grid's. A cooldown starts from the stable trajectory, a continue stage from the previous result.
    """

    name: str
    kind: str
    steps: int
    code_percent: str | None = None
    evaluated: bool = True


@dataclass(frozen=True)
class SyntheticRecipe:
    name: str
    stages: tuple[SyntheticStage, ...]

    @property
    def has_grid(self) -> bool:
        return any(stage.code_percent is None for stage in self.stages)


FROM_SCRATCH = SyntheticRecipe(
    "from-scratch", (SyntheticStage("pretrain", "pretrain", 1000), SyntheticStage("cooldown", "cooldown", 200, "20"))
)
BALANCED_TO_TEXT = SyntheticRecipe(
    "balanced-to-text", (SyntheticStage("init", "pretrain", 500, "50", evaluated=False), SyntheticStage("text", "continue", 500, "10"))
)


@dataclass(frozen=True)
class SyntheticStudy:
    """The definition of a study; `plan()` and `records()` are pure."""

    name: str = "synthetic"
    sizes: tuple[str, ...] = SIZES
    code_percents: tuple[str, ...] = ("0", "25", "50", "100")
    seeds: tuple[int, ...] = (1, 2)
    recipes: tuple[SyntheticRecipe, ...] = (FROM_SCRATCH, BALANCED_TO_TEXT)
    sources: Mapping[str, str] = field(default_factory=lambda: {"prose": "text", "stdlib": "code"})
    suites: tuple[str, ...] = ("bpb", "continuation")

    def plan(self) -> Plan:
        """Return the study's plan, with trajectories as the planner builds them.

        A wsd stage is a stable trajectory and a decay branch; a cooldown branches off the stable trajectory.
        """
        return _Planner(self).plan()

    def records(self, plan: Plan, missing: Callable[[PlannedTask], bool] = lambda _: False) -> dict[str, Record]:
        """Return a record for every task of `plan` except those for which `missing` is true."""
        scale = {task.digest: _model_of(plan, task) for task in plan.tasks.values()}
        return {d: _record(plan, task, *scale[d]) for d, task in plan.tasks.items() if not missing(task)}


class _Planner:
    def __init__(self, study: SyntheticStudy) -> None:
        self.study = study
        self.tasks: dict[str, PlannedTask] = {}
        reader = Reader("text", 1_000_000)
        prints = {name: digest_of_text(f"files of {name}") for name in study.sources}
        weights = tuple(sorted((f, reader, 1) for f in prints.values()))
        self.tokenizer = self.add(TokenizerTask(1024, 1_000_000, 200, weights), TaskKind.PREPARE, "tokenizer")
        self.prepared = {
            name: self.add(PrepareTask(f, reader, self.tokenizer, 200, None), TaskKind.PREPARE, name, needs=(self.tokenizer,))
            for name, f in prints.items()
        }
        self.sources = tuple(PlannedSource(n, g, prints[n], self.prepared[n], f"data/{n}/*") for n, g in study.sources.items())

    def add(
        self, task: Task, kind: TaskKind, label: str, needs: tuple[str, ...] = (), work: str = "", size: str = "", from_tokens: int = 0
    ) -> str:
        digest = digest_of_task(task)
        self.tasks.setdefault(digest, PlannedTask(digest, kind, task, needs, work or digest, size, from_tokens, label))
        return digest

    def plan(self) -> Plan:
        cells = tuple(
            self.cell(recipe, size, code, seed)
            for recipe in self.study.recipes
            for size in self.study.sizes
            for code in (self.study.code_percents if recipe.has_grid else (None,))
            for seed in self.study.seeds
        )
        shapes = {size: shape(size) for size in self.study.sizes}
        return Plan(self.study.name, SEQUENCE, self.tokenizer, shapes, self.sources, self.tasks, cells, ())

    def cell(self, recipe: SyntheticRecipe, size: str, code: str | None, seed: int) -> Cell:
        name = "/".join((recipe.name, size, *(() if code is None else (f"c{code}",)), f"s{seed}"))
        stages: list[CellStage] = []
        stable, result = ("", 0), ("", 0)
        for stage in recipe.stages:
            share = Fraction(stage.code_percent if stage.code_percent is not None else code or "0")
            before = stages[-1].chain_tokens if stages else 0
            code_before = before * Fraction(stages[-1].chain_code_percent) if stages else Fraction(0)
            trains, stable, result = self.train(stage, size, share, seed, stable, result, name)
            tokens = stage.steps * STEP
            stages.append(
                CellStage(
                    name=stage.name, kind=stage.kind, trains=trains, result=trains[-1],
                    evaluations=self.evaluate(result, trains[-1], size, name) if stage.evaluated else (),
                    asked=tokens + 7, tokens=tokens, steps=stage.steps, chain_tokens=before + tokens, code_percent=decimal(share),
                    chain_code_percent=decimal((code_before + tokens * share) / (before + tokens), derived=True), rates=("0.006",),
                )
            )  # fmt: skip
        return Cell(name, recipe.name, size, code, seed, seed, tuple(stages))

    def train(
        self, stage: SyntheticStage, size: str, code: Fraction, seed: int, stable: tuple[str, int], result: tuple[str, int], label: str
    ) -> tuple[tuple[str, ...], tuple[str, int], tuple[str, int]]:
        """Return the stage's train tasks, its stable state and its result; both states are (trajectory, tokens)."""
        tokens, decay = stage.steps * STEP, stage.steps // 10 * STEP
        if stage.kind == "cooldown":
            leaf = self.trajectory(FromState(*stable, True), code, seed, Schedule("linear", 0, "0.006", "0", tokens))
            work = digest_of(leaf.identity())
            whole = self.tasks[self.piece(stable[0], stable[1], size, label)]
            end = self.add(TrainTask(leaf, tokens), TaskKind.TRAIN, label, (whole.digest,), work, size)
            return (whole.digest, end), stable, (work, tokens)
        start = FromState(*result, False) if result[0] else FromInitialisation(shape(size), seed, "0.06")
        flat = self.trajectory(start, code, seed, Schedule("constant", 20 * STEP, "0.006"))
        trunk = digest_of(flat.identity())
        first = self.add(TrainTask(flat, tokens - decay), TaskKind.TRAIN, label, tuple(self.prepared.values()), trunk, size)
        leaf = self.trajectory(FromState(trunk, tokens - decay, True), code, seed, Schedule("linear", 0, "0.006", "0", decay))
        work = digest_of(leaf.identity())
        end = self.add(TrainTask(leaf, decay), TaskKind.TRAIN, label, (first,), work, size)
        return (first, end), (trunk, tokens), (work, decay)

    def piece(self, trunk: str, tokens: int, size: str, label: str) -> str:
        """Add the task that extends the stable trajectory `trunk` to `tokens`."""
        before = next(t for t in self.tasks.values() if t.work == trunk)
        assert isinstance(before.task, TrainTask)
        task = TrainTask(before.task.trajectory, tokens)
        return self.add(task, TaskKind.TRAIN, label, (before.digest,), trunk, size, before.task.tokens)

    def trajectory(self, start: FromInitialisation | FromState, code: Fraction, seed: int, schedule: Schedule) -> Trajectory:
        of_group = {"code": code, "text": 100 - code}
        each = {g: sum(1 for group in self.study.sources.values() if group == g) for g in of_group}
        shares = coprime({self.prepared[n]: of_group[g] / each[g] for n, g in self.study.sources.items()})
        return Trajectory(start, tuple(sorted(shares.items())), (), seed, SEQUENCE, BATCH, _OPTIMIZER, schedule, "fp32", NUMERICS)

    def evaluate(self, state: tuple[str, int], needs: str, size: str, label: str) -> tuple[Evaluation, ...]:
        found = []
        for suite in self.study.suites:
            for name, prepared in self.prepared.items():
                task = EvaluateTask(*state, suite, {"source": prepared, "documents": 100}, NUMERICS)
                digest = self.add(task, TaskKind.EVALUATE, label, (needs, prepared), size=size)
                found.append(Evaluation(suite, name, digest))
        return tuple(found)


def _model_of(plan: Plan, task: PlannedTask) -> tuple[float, str]:
    """Return the code percent of the chain and the scored group: the inputs of the formula."""
    groups = {source.name: source.group for source in plan.sources}
    for cell in plan.cells:
        for stage in cell.stages:
            if task.digest in stage.trains:
                return float(stage.chain_code_percent), "text"
            for evaluation in stage.evaluations:
                if evaluation.digest == task.digest:
                    return float(stage.chain_code_percent), groups.get(evaluation.source, "text")
    return 0.0, "text"


def synthetic_bits(n: int, code_percent: float, group: str, noise: str) -> float:
    """Return bits per byte that fall with N and with the share of the scored group, most steeply near a share of 0."""
    share = (code_percent if group == "code" else 100 - code_percent) / 100
    floor, scarcity = (1.35, 1.1) if group == "code" else (1.75, 0.7)
    noise_term = int(digest_of_text(noise)[:6], 16) / 0xFFFFFF - 0.5
    bits: float = floor + 12 * n**-0.25 + scarcity * (1 - share) ** 6 + 0.12 * (1 - share) + 0.03 * noise_term
    return bits


def _results(plan: Plan, planned: PlannedTask, code_percent: float, group: str) -> dict[str, float | int | str]:
    task = planned.task
    if isinstance(task, TrainTask):
        steps = task.tokens // STEP
        return {"loss": 3.0, "tokens": task.tokens, "steps": steps, "skipped_steps": 0, "token_hash": planned.digest}
    if isinstance(task, EvaluateTask):
        bits = synthetic_bits(plan.shapes[planned.size].n, code_percent, group, planned.digest)
        if task.suite == "bpb":
            return {"bits_per_byte": bits, "bytes": 200_000, "documents": 100}
        return {"accuracy": 0.25 + 0.9 / bits**2 if bits < 3 else 0.25, "correct": 100, "items": 400, "choices": 4}
    if isinstance(task, PrepareTask):
        return {"tokens": 3_000_000, "documents": 9_000, "bytes": 8_000_000, "held_out_documents": 100, "held_out_bytes": 200_000}
    return {"vocabulary": 1024, "bytes": 1_000_000}


def _record(plan: Plan, planned: PlannedTask, code_percent: float, group: str) -> Record:
    attempt = Attempt(
        number=2 if planned.from_tokens else 1, study=plan.study, commit="0123456789abcdef" * 2,
        versions={"torch": "2.13.0+cpu", "python": "3.11.9"},
        processor="a synthetic processor", start="2026-01-02T03:04:05+00:00", end="2026-01-02T03:04:15+00:00", how="done", cpu_seconds=9.5,
        tokens_lost=512 if planned.kind == TaskKind.TRAIN else 0,
    )  # fmt: skip
    results = _results(plan, planned, code_percent, group)
    identity = planned.task.identity()
    return Record(digest=planned.digest, identity=identity, results=results, artifacts={}, attempts=[attempt], nonce="")


def _falling(start: FromInitialisation | FromState, step: int) -> float:
    """Return a loss that falls faster in a branch, as it does while the learning rate decays."""
    before = start.tokens // STEP if isinstance(start, FromState) else 0
    loss: float = 2.0 + 5.0 * (before + step) ** -0.3 - (0.001 * step if before else 0.0)
    return loss


Loss = Callable[[FromInitialisation | FromState, int], float]


def store_records(store: Store, plan: Plan, records: Mapping[str, Record], loss: Loss = _falling) -> None:
    """Write the records to a store, and a loss per step for every trajectory that they cover."""
    reached: dict[str, int] = {}
    starts: dict[str, FromInitialisation | FromState] = {}
    for digest, record in records.items():
        publish_record(store, record)
        task = plan.tasks[digest]
        if isinstance(task.task, TrainTask):
            reached[task.work] = max(task.task.tokens, reached.get(task.work, 0))
            starts[task.work] = task.task.trajectory.start
    for work, tokens in reached.items():
        lease = acquire(store, work_root(TaskKind.TRAIN, work), work, Holder(study=plan.study))
        lease.start_from(0)
        append(store, lease, [(step, step * STEP, LOSS, loss(starts[work], step)) for step in range(1, tokens // STEP + 1)])
        lease.end("done", 0)


def without_evaluations(plan: Plan, cells: Sequence[str]) -> Callable[[PlannedTask], bool]:
    """Return a predicate for `records(missing=...)` that is true for every evaluation of these cells."""
    digests = {e.digest for name in cells for stage in plan.cell(name).stages for e in stage.evaluations}
    return lambda task: task.digest in digests
