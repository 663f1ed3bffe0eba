"""A plan as data: what `orchestrator.planning` builds, the store keeps frozen, and run, status, tracking and report read.

A plan is a set of tasks with one digest each and a list of cells that point into it. Many cells point at one task: that is what sharing
means here. The plan says nothing about what has been done.
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
    """A task and its place in the graph.

    `needs`: digests that must have records before it starts. `work`: the digest that its attempts and leases live under, the
    trajectory's for a train task, else its own. `size`: name of the shape, "" where there is none. `from_tokens`: for a train task,
    where the task before it on the same trajectory ends. `label`: the first cell and stage that asked for it, for people.
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
    """A source of the study: its name and group are placement, `digest` is its prepare task's. `path` is as the file gives it."""

    name: str
    group: str
    fingerprint: str
    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluate task of a stage. `source` is "" for suites of named benchmarks."""

    suite: str
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class CellStage:
    """One stage as one cell goes through it.

    `trains`: its train tasks in order. `result`: the train task whose end is the stage's result, "" when nobody evaluates it or starts
    from it. Tokens are realised, that is whole steps; `asked` is what the file says. `code_percent` is of this stage's tokens,
    `chain_code_percent` of all that the model has read up to its end, as decimals of 6 digits. `rates` say, for people, which peak,
    final and warm-up hold and where they come from. `read`: (prepare digest, windows) of all that the model has read up to its end.
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
        """Digests of the train and evaluate tasks that the stage consists of."""
        return (*self.trains, *(evaluation.digest for evaluation in self.evaluations))


@dataclass(frozen=True, slots=True)
class Cell:
    """One leaf of the grid: one model at the end. `code_percent` is None for a recipe that fixes all its proportions."""

    name: str
    recipe: str
    size: str
    code_percent: str | None
    init_seed: int
    data_seed: int
    stages: tuple[CellStage, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Digests of the train and evaluate tasks that the cell consists of, in order, each once."""
        return tuple(dict.fromkeys(digest for stage in self.stages for digest in stage.tasks))


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a study will do.

    `tasks`: each after all that it needs. `sequence_length`: of recipes that give none of their own. `contrasts` are as the study file
    writes them.
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
        """Tokens of a window that a task trains on or scores a model of: a recipe may have a length of its own."""
        task = planned.task
        if isinstance(task, TrainTask):
            return task.trajectory.sequence_length
        return self.window_of(self.tasks[planned.needs[0]]) if isinstance(task, EvaluateTask) else self.sequence_length

    def cell(self, name: str) -> Cell:
        """The cell called `name`. Raises ContractError."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise ContractError(f"the plan has no cell called {name!r}")


def to_document(plan: Plan) -> Document:
    """The plan as JSON without floats; each trajectory is written once."""
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
    """Inverse of `to_document`. Raises ContractError for a document that is cut, changed, or of another version."""
    try:
        if document["version"] != 1:
            raise ContractError(f"this plan is of version {document['version']}; this installation reads 1")
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
        raise ContractError(f"this is not a plan ({type(problem).__name__}: {problem})") from problem


def digest_of_plan(plan: Plan) -> str:
    """SHA-256 of the plan's canonical document: the name that it is frozen under."""
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
