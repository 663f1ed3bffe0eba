"""Build the plan of a study: every task once, and every cell with its tasks.

Called by the command line and by the controller with the fingerprints of the sources. Reads no file, store or clock.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from orchestrator.contract.identity import NUMERICS, coprime, decimal, digest_of_text, dumps
from orchestrator.contract.plan import Cell, CellStage, Evaluation, Plan, PlannedSource, PlannedTask
from orchestrator.contract.tasks import (
    EvaluateTask,
    FromInitialisation,
    FromState,
    PrepareTask,
    Reader,
    Task,
    TokenizerTask,
    TrainTask,
    evaluate_text,
    train_text,
)
from orchestrator.contract.vocabulary import BENCHMARK_SUITES, SOURCE_SUITES, TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.planning.chain import Arm, Leg, Point, Trajectories, Windows, arm, code_windows, legs
from orchestrator.planning.defaults import Rates, ResolvedSize, resolve_size, rung_of, vocabulary_of
from orchestrator.spec import Recipe, Seed, Source, Study, StudySpec, TokenizerFile

UNKNOWN: Final = "unknown:"
"""Prefix of a source's path that replaces a fingerprint which is neither declared nor computed. Such a plan cannot run."""

# The continuation benchmark: maximum context and continuation in tokens; shorter for short windows
CONTEXT: Final = 256
CONTINUATION: Final = 64
CHOICES: Final = 4


def plan_study(study: Study, fingerprints: Mapping[str, str], tokenizer_sha256: str = "") -> Plan:
    """Return the plan of `study`.

    `fingerprints`: source name -> fingerprint, for the sources that declare none; if one is missing the plan cannot run (`is_runnable`).
    `tokenizer_sha256`: hash of the tokenizer.json that the study names. Raises PlanRefused.
    """
    with _uncollected():
        return _Planner(study, fingerprints, tokenizer_sha256).plan()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable garbage collection: nothing that planning creates is garbage, and collecting took a third of the time for 50,000 tasks."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_runnable(plan: Plan) -> bool:
    """Return whether the content of every source is known, so that every digest is final."""
    return not plan.tokenizer.startswith(UNKNOWN) and not any(source.fingerprint.startswith(UNKNOWN) for source in plan.sources)


@dataclass(slots=True)
class _Reached:
    """A state that a cell trains to, with the label of the first cell and stage that needs it. `part`: suffix for a part of a wsd stage."""

    point: Point
    digest: str
    size: str
    label: str
    part: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """A suite, and the source that it scores (None for a named benchmark)."""

    suite: str
    source: PlannedSource | None
    items: dict[str, Any]
    items_text: str


class _Planner:
    """Collects the tasks of all cells."""

    def __init__(self, study: Study, fingerprints: Mapping[str, str], tokenizer_sha256: str) -> None:
        self.name = study.name
        self.spec: StudySpec = study.spec
        self.fingerprints = {
            source.name: source.fingerprint or fingerprints.get(source.name) or UNKNOWN + source.path for source in self.spec.data.sources
        }
        self.tasks: dict[str, PlannedTask] = {}
        self.tokenizer = self._tokenizer(tokenizer_sha256)
        self.sources = tuple(self._source(source) for source in self.spec.data.sources)
        self.prepared = {source.name: source.digest for source in self.sources}
        self.groups = _groups(self.sources)
        self.asked: dict[int, tuple[_Asked, ...]] = {}
        self.trajectories = Trajectories()
        self.reached: dict[str, dict[int, _Reached]] = {}
        self.scores: dict[str, PlannedTask] = {}
        self.evaluations: dict[str, tuple[Evaluation, ...]] = {}
        self.percents: dict[Windows, str] = {}

    def plan(self) -> Plan:
        cells = tuple(self._cells())
        if not cells:
            raise PlanRefused("the grid has no cells: no recipe has a size, a code proportion and a seed that are in the grid")
        used = self._used(cells)
        prepares = {digest: task for digest, task in self.tasks.items() if digest in used}
        trains = {task.digest: task for task in self._train_tasks()}
        return Plan(
            study=self.name,
            sequence_length=self.spec.training.sequence_length,
            tokenizer=self.tokenizer,
            shapes={name: rung_of(self.spec, name).shape(vocabulary_of(self.spec)) for name in self.spec.grid.sizes},
            sources=tuple(source for source in self.sources if source.digest in used or source.fingerprint in self._read_by_tokenizer()),
            tasks={**prepares, **trains, **self.scores},
            cells=cells,
            contrasts=tuple(contrast.model_dump(mode="json", by_alias=True, exclude_none=True) for contrast in self.spec.contrasts),
        )

    # Sources and tokenizer

    def _tokenizer(self, sha256: str) -> str:
        tokenizer, held_out = self.spec.data.tokenizer, self.spec.data.held_out
        if isinstance(tokenizer, TokenizerFile):
            return f"file:{sha256}" if sha256 else UNKNOWN + tokenizer.file
        weights = coprime({name: Fraction(weight) for name, weight in tokenizer.weights.items()})
        by_name = {source.name: source for source in self.spec.data.sources}
        parts = [(self.fingerprints[name], _reader(by_name[name]), weight) for name, weight in weights.items()]
        # two sources may be columns of one file
        parts.sort(key=lambda part: (part[0], part[1].column, part[1].max_file_bytes, part[2]))
        task = TokenizerTask(tokenizer.vocabulary, tokenizer.bytes, held_out.one_in, tuple(parts))
        return self._add(task, TaskKind.PREPARE, (), label="tokenizer")

    def _source(self, source: Source) -> PlannedSource:
        fingerprint = self.fingerprints[source.name]
        task = PrepareTask(fingerprint, _reader(source), self.tokenizer, self.spec.data.held_out.one_in, source.limit)
        needs = (self.tokenizer,) if self.tokenizer in self.tasks else ()
        digest = self._add(task, TaskKind.PREPARE, needs, label=f"source {source.name}")
        return PlannedSource(source.name, source.group, fingerprint, digest, source.path)

    def _asked(self, window: int) -> tuple[_Asked, ...]:
        """Return the suites and sources that every evaluated state is scored on, and the benchmarks."""
        if window not in self.asked:
            self.asked[window] = tuple(
                self._question(suite, source, window)
                for suite in self.spec.evaluation.suites
                for source in (self.sources if suite in SOURCE_SUITES else (None,))
            )
        return self.asked[window]

    def _question(self, suite: str, source: PlannedSource | None, window: int) -> _Asked:
        documents = self.spec.data.held_out.documents
        items = benchmark_items(suite) if source is None else source_items(suite, source.digest, documents, window)
        return _Asked(suite, source, items, dumps(items))

    def _used(self, cells: Iterable[Cell]) -> set[str]:
        """Return the digests of the prepare tasks whose output at least one cell reads or is scored on."""
        read = {digest for cell in cells for digest, _ in cell.stages[-1].read}
        scored = {asked.source.digest for of_window in self.asked.values() for asked in of_window if asked.source is not None}
        return read | scored | {self.tokenizer}

    def _read_by_tokenizer(self) -> set[str]:
        planned = self.tasks.get(self.tokenizer)
        return {part[0] for part in planned.task.sources} if planned and isinstance(planned.task, TokenizerTask) else set()

    def _add(self, task: Task, kind: TaskKind, needs: tuple[str, ...], label: str) -> str:
        digest = digest_of_text(dumps(task.identity()))
        self.tasks.setdefault(digest, PlannedTask(digest, kind, task, needs, digest, "", 0, label))
        return digest

    # Cells

    def _cells(self) -> Iterator[Cell]:
        grid = self.spec.grid
        for recipe in self.spec.recipes:
            proportions: tuple[Decimal | None, ...] = (None,)
            if recipe.follows_grid:
                proportions = grid.code_percent if recipe.code_percent is None else recipe.code_percent
            seeds = grid.seeds if recipe.seeds is None else recipe.seeds
            for name in grid.sizes if recipe.sizes is None else recipe.sizes:
                size = resolve_size(self.spec, recipe, name)
                for proportion in proportions:
                    cells = arm(self.spec, recipe, size, proportion, self.prepared)
                    yield from (self._cell(cells, recipe, size, proportion, seed) for seed in seeds)

    def _cell(self, cells: Arm, recipe: Recipe, size: ResolvedSize, proportion: Decimal | None, seed: Seed) -> Cell:
        percent = None if proportion is None else decimal(proportion)
        name = cell_name(recipe.name, size.name, percent, seed)
        stages = []
        trained = 0
        for leg in legs(cells, seed, self.trajectories):
            trained += leg.tokens
            stages.append(self._stage(leg, size, trained, f"{name} {leg.stage.name}"))
        return Cell(name, recipe.name, size.name, percent, seed.init, seed.data, tuple(stages))

    def _stage(self, leg: Leg, size: ResolvedSize, trained: int, label: str) -> CellStage:
        for point in leg.reach:
            self._reach(point, size, label, _part(point, leg))
        evaluations: tuple[Evaluation, ...] = ()
        if leg.result is not None and leg.stage.name in self.spec.evaluation.after:
            evaluations = self._evaluations(leg.result)
        return CellStage(
            name=leg.stage.name,
            kind=leg.stage.kind,
            trains=tuple(self._train_digest(point) for point in leg.reach),
            result="" if leg.result is None else self._train_digest(leg.result),
            evaluations=evaluations,
            asked=leg.asked,
            tokens=leg.tokens,
            steps=leg.steps,
            chain_tokens=trained,
            code_percent=decimal(leg.code_percent),
            chain_code_percent=self._percent_of_code(leg.end),
            rates=_rates_text(leg.rates, leg.reach[0].trajectory.schedule.peak),
            read=leg.end,
        )

    def _percent_of_code(self, read: Windows) -> str:
        if read not in self.percents:
            part, whole = code_windows(read, self.groups), sum(windows for _, windows in read)
            self.percents[read] = decimal(Fraction(100 * part, whole), derived=True)
        return self.percents[read]

    # Train tasks

    def _reach(self, point: Point, size: ResolvedSize, label: str, part: str) -> None:
        reached = self.reached.setdefault(point.digest, {})
        if point.tokens not in reached:
            digest = digest_of_text(train_text(self.trajectories.texts[point.digest], point.tokens))
            reached[point.tokens] = _Reached(point, digest, size.name, label, part)

    def _train_digest(self, point: Point) -> str:
        return self.reached[point.digest][point.tokens].digest

    def _train_tasks(self) -> Iterator[PlannedTask]:
        for work, states in self.reached.items():
            for earlier, end in pairwise((0, *sorted(states))):
                state = states[end]
                trajectory = state.point.trajectory
                before = states[earlier].digest if earlier else self._parent(trajectory.start)
                sources = tuple(prepare for prepare, _ in trajectory.shares)
                needs = (before, *sources) if before else sources
                task = TrainTask(trajectory, end)
                yield PlannedTask(state.digest, TaskKind.TRAIN, task, needs, work, state.size, earlier, state.label + state.part)

    def _parent(self, start: FromInitialisation | FromState) -> str:
        return self.reached[start.trajectory][start.tokens].digest if isinstance(start, FromState) else ""

    # Evaluations

    def _evaluations(self, point: Point) -> tuple[Evaluation, ...]:
        state = self.reached[point.digest][point.tokens]
        known = self.evaluations.get(state.digest)
        if known is None:
            known = tuple(self._evaluation(state, asked) for asked in self._asked(point.trajectory.sequence_length))
            self.evaluations[state.digest] = known
        return known

    def _evaluation(self, state: _Reached, asked: _Asked) -> Evaluation:
        point, source = state.point, asked.source
        task = EvaluateTask(point.digest, point.tokens, asked.suite, asked.items, NUMERICS)
        digest = digest_of_text(evaluate_text(asked.items_text, NUMERICS, point.digest, point.tokens, asked.suite))
        needs = (state.digest,) if source is None else (state.digest, source.digest)
        name = "" if source is None else source.name
        label = f"{state.label} {asked.suite} {name}".rstrip()
        self.scores[digest] = PlannedTask(digest, TaskKind.EVALUATE, task, needs, digest, state.size, 0, label)
        return Evaluation(asked.suite, name, digest)


def cell_name(recipe: str, size: str, percent: str | None, seed: Seed) -> str:
    """Return the name of a cell: `from-scratch/470M/c25/s1`; no `c` if the recipe fixes its proportions, `s1.2` for two seeds."""
    seeds = str(seed.init) if seed.init == seed.data else f"{seed.init}.{seed.data}"
    return "/".join((recipe, size, *(() if percent is None else (f"c{percent}",)), f"s{seeds}"))


def source_items(suite: str, prepare: str, documents: int, window: int) -> dict[str, Any]:
    """Return the items of a suite that is made from a source's held-out documents."""
    if suite == "bpb":
        return {"source": prepare, "documents": documents, "window": window}
    return {
        "source": prepare,
        "documents": documents,
        "context": min(CONTEXT, window // 2),
        "continuation": min(CONTINUATION, window // 4),
        "choices": CHOICES,
        "seed": 0,
    }


def benchmark_items(suite: str) -> dict[str, Any]:
    """Return the items of a suite of named benchmarks."""
    return {"benchmarks": list(BENCHMARK_SUITES[suite]), "version": 1}


def _groups(sources: Iterable[PlannedSource]) -> dict[str, str]:
    """Return the group of each prepare digest. Raises PlanRefused if the same content is in both groups."""
    found: dict[str, PlannedSource] = {}
    for source in sources:
        other = found.setdefault(source.digest, source)
        if other.group != source.group:
            raise PlanRefused(
                f"sources {other.name} ({other.group}) and {source.name} ({source.group}) have the same files and reader, so their tokens"
                " would count as both. Give one of them other files or another column"
            )
    return {digest: source.group for digest, source in found.items()}


def _part(point: Point, leg: Leg) -> str:
    """Return a label suffix that distinguishes the two parts of a wsd stage in lists of tasks and of MLflow runs."""
    if leg.reach[0].trajectory.schedule.shape != "constant":
        return ""
    return " (stable)" if point.trajectory.schedule.shape == "constant" else " (decay)"


def _reader(source: Source) -> Reader:
    return Reader(source.column, source.max_file_bytes)


@lru_cache(maxsize=4096)
def _rates_text(asked: Rates, peak: str) -> tuple[str, ...]:
    return (f"peak {peak} ({asked.peak_from})", f"final {asked.final}", f"warm-up {asked.warmup:,} tokens ({asked.warmup_from})")
