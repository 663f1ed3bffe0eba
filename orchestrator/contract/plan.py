"""A plan as data: built by `orchestrator.planning`, frozen in the store, read by run, status, tracking and report.

A plan is a set of tasks, each with a digest, and a list of cells that refer to them. Cells share a task by referring to the same digest.
The plan does not contain the state of its tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.contract.identity import digest_of
from orchestrator.contract.tasks import EvaluateTask, Shape, Task, TrainTask, read_identity
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import ContractError

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task and its position in the graph.

    `needs`: digests of tasks that must have records before it starts. `work`: digest in the path of its attempts and leases, the
    trajectory's for a train task, else its own. `size`: name of the shape, "" if it has none. `from_tokens`: for a train task, where the
    preceding task on the same trajectory ends. `label`: the first cell and stage that use it, for people.
    """

    digest: str
    kind: TaskKind
    task: Task
    needs: tuple[str, ...]
    work: str
    size: str
    from_tokens: int
    label: str


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A source of the study. `name`, `group`: not part of an identity. `digest`: of its prepare task. `path`: as in the study file."""

    name: str
    group: str
    fingerprint: str
    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluate task of a stage. `source` is "" for suites of named benchmarks."""

    suite: str
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class CellStage:
    """One stage of one cell.

    `trains`: its train tasks in order. `result`: the train task whose end is the stage's result, "" if no task uses it. `asked`: tokens
    in the study file; `tokens`: rounded to whole steps. `code_percent`: of this stage's tokens; `chain_code_percent`: of all tokens that
    the model has read at its end; both as decimals of 6 digits. `rates`: the peak, final and warm-up in use and their origin, for people.
    `read`: (prepare digest, windows) of everything that the model has read at its end.
    """

    name: str
    kind: str
    trains: tuple[str, ...]
    result: str
    evaluations: tuple[Evaluation, ...]
    asked: int
    tokens: int
    steps: int
    chain_tokens: int
    code_percent: str
    chain_code_percent: str
    rates: tuple[str, ...]
    read: tuple[tuple[str, int], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Digests of the stage's train and evaluate tasks."""
        return (*self.trains, *(evaluation.digest for evaluation in self.evaluations))


@dataclass(frozen=True, slots=True)
class Cell:
    """One leaf of the grid: one final model. `code_percent` is None for a recipe with fixed proportions."""

    name: str
    recipe: str
    size: str
    code_percent: str | None
    init_seed: int
    data_seed: int
    stages: tuple[CellStage, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Digests of the cell's train and evaluate tasks, in order, without duplicates."""
        return tuple(dict.fromkeys(digest for stage in self.stages for digest in stage.tasks))


@dataclass(frozen=True, slots=True)
class Plan:
    """All tasks and cells of a study.

    `tasks`: in dependency order. `sequence_length`: of recipes without one of their own. `contrasts`: as in the study file.
    """

    study: str
    sequence_length: int
    tokenizer: str
    shapes: Mapping[str, Shape]
    sources: tuple[PlannedSource, ...]
    tasks: Mapping[str, PlannedTask]
    cells: tuple[Cell, ...]
    contrasts: tuple[Document, ...]

    def window_of(self, planned: PlannedTask) -> int:
        """Return the tokens per window of a task; a recipe can have its own sequence length."""
        task = planned.task
        if isinstance(task, TrainTask):
            return task.trajectory.sequence_length
        return self.window_of(self.tasks[planned.needs[0]]) if isinstance(task, EvaluateTask) else self.sequence_length

    def cell(self, name: str) -> Cell:
        """Return the cell called `name`. Raises ContractError."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise ContractError(f"the plan has no cell called {name!r}")


def to_document(plan: Plan) -> Document:
    """Return the plan as JSON without floats; each trajectory occurs once."""
    trajectories: Document = {}
    return {
        "version": 1,
        "study": plan.study,
        "sequence_length": plan.sequence_length,
        "tokenizer": plan.tokenizer,
        "shapes": {name: shape.identity() for name, shape in plan.shapes.items()},
        "sources": [[s.name, s.group, s.fingerprint, s.digest, s.path] for s in plan.sources],
        "tasks": [_task_document(task, trajectories) for task in plan.tasks.values()],
        "trajectories": trajectories,
        "cells": [_cell_document(cell) for cell in plan.cells],
        "contrasts": list(plan.contrasts),
    }


def from_document(document: Document) -> Plan:
    """Return the plan in a document (inverse of `to_document`). Raises ContractError if it is malformed or of another version."""
    try:
        if document["version"] != 1:
            raise ContractError(f"this plan has version {document['version']}; this installation reads version 1")
        tasks = [_read_task(entry, document["trajectories"]) for entry in document["tasks"]]
        return Plan(
            study=document["study"],
            sequence_length=document["sequence_length"],
            tokenizer=document["tokenizer"],
            shapes={name: Shape(**shape) for name, shape in document["shapes"].items()},
            sources=tuple(PlannedSource(*entry) for entry in document["sources"]),
            tasks={task.digest: task for task in tasks},
            cells=tuple(_read_cell(entry) for entry in document["cells"]),
            contrasts=tuple(document["contrasts"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ContractError(f"not a plan ({type(problem).__name__}: {problem})") from problem


def digest_of_plan(plan: Plan) -> str:
    """Return the SHA-256 of the plan's canonical document, which names it in the store."""
    return digest_of(to_document(plan))


def _task_document(planned: PlannedTask, trajectories: Document) -> Document:
    identity = planned.task.identity()
    if isinstance(planned.task, TrainTask):
        trajectories[planned.work] = identity["trajectory"]
        identity["trajectory"] = planned.work
    return {
        "digest": planned.digest,
        "identity": identity,
        "needs": list(planned.needs),
        "work": planned.work,
        "size": planned.size,
        "from_tokens": planned.from_tokens,
        "label": planned.label,
    }


def _read_task(entry: Document, trajectories: Document) -> PlannedTask:
    identity = dict(entry["identity"])
    if identity["kind"] == TaskKind.TRAIN:
        identity["trajectory"] = trajectories[identity["trajectory"]]
    return PlannedTask(
        entry["digest"],
        TaskKind(identity["kind"]),
        read_identity(identity),
        tuple(entry["needs"]),
        entry["work"],
        entry["size"],
        entry["from_tokens"],
        entry["label"],
    )


def _cell_document(cell: Cell) -> Document:
    return {
        "name": cell.name,
        "recipe": cell.recipe,
        "size": cell.size,
        "code_percent": cell.code_percent,
        "init_seed": cell.init_seed,
        "data_seed": cell.data_seed,
        "stages": [_stage_document(stage) for stage in cell.stages],
    }


def _stage_document(stage: CellStage) -> Document:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "trains": list(stage.trains),
        "result": stage.result,
        "evaluations": [[e.suite, e.source, e.digest] for e in stage.evaluations],
        "asked": stage.asked,
        "tokens": stage.tokens,
        "steps": stage.steps,
        "chain_tokens": stage.chain_tokens,
        "code_percent": stage.code_percent,
        "chain_code_percent": stage.chain_code_percent,
        "rates": list(stage.rates),
        "read": [list(pair) for pair in stage.read],
    }


def _read_cell(entry: Document) -> Cell:
    stages = tuple(_read_stage(stage) for stage in entry["stages"])
    return Cell(entry["name"], entry["recipe"], entry["size"], entry["code_percent"], entry["init_seed"], entry["data_seed"], stages)


def _read_stage(entry: Document) -> CellStage:
    return CellStage(
        **{
            **entry,
            "trains": tuple(entry["trains"]),
            "evaluations": tuple(Evaluation(*values) for values in entry["evaluations"]),
            "rates": tuple(entry["rates"]),
            "read": tuple((digest, windows) for digest, windows in entry["read"]),
        }
    )
