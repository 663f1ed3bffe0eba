"""Compute the MLflow run of a task: tags, parameters and points, from plan, metrics and record alone.

Pure, so that a mirror written during training equals one that is rebuilt afterwards. `mirror` writes the result.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.contract.identity import digest_of
from orchestrator.contract.plan import Cell, Plan, PlannedTask
from orchestrator.contract.record import Attempt, Record
from orchestrator.contract.tasks import EvaluateTask, TrainTask
from orchestrator.contract.vocabulary import TAGS, TaskKind

# approximate points of one curve in MLflow: a row costs its database 0.1-0.3 ms (measured on SQLite); the store keeps every step
CURVE_POINTS: Final = 250
# MLflow 3 rejects longer values: mlflow.utils.validation MAX_TAG_VAL_LENGTH (8,000), MAX_PARAM_VAL_LENGTH (6,000)
LONGEST_TAG: Final = 8_000
LONGEST_PARAMETER: Final = 6_000
PACKAGE: Final = "scaling-study"
# tag of a cell whose recipe fixes the code proportions
NO_CODE_PERCENT: Final = "fixed"


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a metric at `tokens`, which is MLflow's step. Its time is the run's start, since steps have no time in the store."""

    name: str
    tokens: int
    value: float


@dataclass(frozen=True, slots=True)
class View:
    """A run as it should be now. `points` are only appended to while the task runs; `seal` is set once the run is final."""

    digest: str
    name: str
    started_ms: int
    ended_ms: int | None
    status: str
    tags: dict[str, str]
    parameters: dict[str, str]
    points: tuple[Point, ...]
    seal: str = ""

    def fingerprint(self, count: int) -> str:
        """Return a hash of what MLflow cannot delete: parameters, start, and the first `count` points."""
        logged = [[point.name, point.tokens, repr(point.value)] for point in self.points[:count]]
        body = json.dumps([self.started_ms, sorted(self.parameters.items()), logged])
        return hashlib.sha256(body.encode()).hexdigest()


def tags_of(plan: Plan) -> dict[str, dict[str, str]]:
    """Return the tags of every task's run. Values of a task that several cells share are joined by commas in plan order."""
    served: dict[str, dict[str, dict[str, None]]] = {digest: {} for digest in plan.tasks}
    for cell in plan.cells:
        for stage in cell.stages:
            for digest in [*stage.trains, *(evaluation.digest for evaluation in stage.evaluations)]:
                if digest in served:
                    for tag, value in _axes(cell, stage.name):
                        served[digest].setdefault(tag, {})[value] = None
    names = {source.digest: source.name for source in plan.sources}
    return {
        digest: {
            "study": plan.study,
            "digest": digest,
            "kind": str(planned.kind),
            **{tag: _clip(",".join(values), LONGEST_TAG) for tag, values in served[digest].items()},
            **_extra_tags(planned, names),
        }
        for digest, planned in plan.tasks.items()
    }


def parameters_of(plan: Plan, planned: PlannedTask) -> dict[str, str]:
    """Return the task's identity with flat names and source names instead of digests, and the number of parameters."""
    names = {source.digest: source.name for source in plan.sources}
    flat = dict(_flat("", planned.task.identity(), names))
    shape = plan.shapes.get(planned.size)
    sizes = {"size": planned.size, "n_body": str(shape.body), "n": str(shape.n), "n_total": str(shape.total)} if shape else {}
    return {key: _clip(value, LONGEST_PARAMETER) for key, value in {**flat, **sizes}.items()}


def curve(planned: PlannedTask, rows: Iterable[tuple[int, int, str, float]]) -> Iterator[Point]:
    """Yield the points to mirror from rows of (step, tokens, name, value): every n-th step of this task, and its last."""
    if not isinstance(planned.task, TrainTask):
        return
    per_step = planned.task.trajectory.tokens_per_step
    stride = math.ceil((planned.task.tokens - planned.from_tokens) / per_step / CURVE_POINTS) * per_step
    for _, tokens, name, value in rows:
        if planned.from_tokens < tokens <= planned.task.tokens and (tokens % stride == 0 or tokens == planned.task.tokens):
            yield Point(name, tokens, value)


def results(planned: PlannedTask, record: Record) -> list[Point]:
    """Return the numbers of a record; names of a train task start with `result/`, because its curves use the plain names."""
    tokens = planned.task.tokens if isinstance(planned.task, (TrainTask, EvaluateTask)) else 0
    prefix = "result/" if planned.kind is TaskKind.TRAIN else ""
    numbers = {name: value for name, value in sorted(record.results.items()) if not isinstance(value, str)}
    return [Point(prefix + name, tokens, float(value)) for name, value in numbers.items()]


def finished(
    planned: PlannedTask,
    tags: Mapping[str, str],
    parameters: dict[str, str],
    record: Record,
    points: Sequence[Point],
    started_ms: int,
    mark: str,
) -> View:
    """Return the run of a finished task. `mark`: changes if the record is replaced."""
    words = {f"result.{name}": _clip(value, LONGEST_TAG) for name, value in record.results.items() if isinstance(value, str)}
    ended = max((milliseconds(attempt.end) for attempt in record.attempts), default=started_ms)
    attempts = ",".join(str(attempt.number) for attempt in record.attempts)
    commits = _each(_commit(attempt) for attempt in record.attempts)
    versions = _each(attempt.versions.get(PACKAGE, "") for attempt in record.attempts)
    origin = {"commit": commits, "version": versions}
    whole = {**tags, "attempt": attempts, **{name: text for name, text in origin.items() if text}, **words}
    return View(
        planned.digest, planned.label, started_ms, ended, "FINISHED", whole, parameters, (*points, *results(planned, record)),
        seal_of(tags, parameters, mark),
    )  # fmt: skip


def _commit(attempt: Attempt) -> str:
    return f"{attempt.commit[:12]}{'-dirty' if attempt.dirty else ''}" if attempt.commit else ""


def _each(values: Iterable[str]) -> str:
    """Join the values by commas, in order, each once."""
    return ",".join(dict.fromkeys(value for value in values if value))


def seal_of(tags: Mapping[str, str], parameters: Mapping[str, str], mark: str) -> str:
    """Return the seal of a finished run, which changes with its plan or record."""
    return digest_of([dict(tags), dict(parameters), mark, CURVE_POINTS])


def milliseconds(moment: str | datetime) -> int:
    """Return milliseconds since 1970."""
    when = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return round(when.timestamp() * 1000)


def _axes(cell: Cell, stage: str) -> list[tuple[str, str]]:
    seed = str(cell.init_seed) if cell.init_seed == cell.data_seed else f"{cell.init_seed}/{cell.data_seed}"
    percent = NO_CODE_PERCENT if cell.code_percent is None else cell.code_percent
    axes = [("recipe", cell.recipe), ("size", cell.size), ("code_percent", percent), ("seed", seed), ("stage", stage)]
    assert {tag for tag, _ in axes} <= set(TAGS)
    return [*axes, ("cells", cell.name)]


def _extra_tags(planned: PlannedTask, names: Mapping[str, str]) -> dict[str, str]:
    if isinstance(planned.task, EvaluateTask):
        source = names.get(str(planned.task.items.get("source", "")), "")
        return {"suite": planned.task.suite, **({"source": source} if source else {})}
    if planned.digest in names:
        return {"source": names[planned.digest]}
    return {}


def _flat(prefix: str, value: object, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner, names)
    elif isinstance(value, (list, tuple)):
        named = [[names.get(str(each), each) for each in item] if isinstance(item, (list, tuple)) else item for item in value]
        yield prefix, json.dumps(named, separators=(",", ":"))
    elif value is not None:
        yield prefix, names.get(str(value), str(value))


def _clip(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 4] + " ..."
