"""The schema of a study's status, and the printer columns of `kubectl get`."""

from typing import Any, Final

from orchestrator.reconcile.task_states import MOST_CELL_LETTERS

Schema = dict[str, Any]

MOST_FAILED_CELLS: Final = 20
"""Maximum number of failed cells that the status names; the count includes all."""


def _text(description: str, longest: int = 1024) -> Schema:
    return {"type": "string", "maxLength": longest, "description": description}


def _count(description: str) -> Schema:
    return {"type": "integer", "format": "int64", "minimum": 0, "description": description}


# metav1.Condition, as the API of Kubernetes itself has it
_CONDITION: Final[Schema] = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
    "properties": {
        "type": _text("Accepted, Planned, Progressing, BudgetExhausted, Degraded or Succeeded.", 316),
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
        "observedGeneration": _count("The generation of the study that it was said of."),
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When its status last changed."},
        "reason": {**_text("One word for why.", 1024), "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "message": _text("Why, for people.", 32768),
    },
}

_FAILED_CELL: Final[Schema] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": _text("Name of the cell.", 256), "reason": _text("What failed, and what its last attempt said.")},
}

STATUS: Final[Schema] = {
    "type": "object",
    "description": "Written by the controller.",
    "properties": {
        "observedGeneration": _count("The generation of the study that all of this is about."),
        "phase": _text("One word for the whole: Planning, Refused, Running, Stopping, Paused, Held, Failed or Succeeded.", 64),
        "planDigest": _text("Digest of the frozen plan.", 64),
        "planVersion": _count("Which plan of the study it is, from 1."),
        "runNumber": _count("One more after every pause, and after a person's retry."),
        "conditions": {
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "description": "What holds of the study.",
            "items": _CONDITION,
        },
        "counts": {
            "type": "object",
            "description": "Cells and tasks by how far they are.",
            "properties": {
                "cells": _count("Cells of the grid."),
                "cellsDone": _count("Cells with every record."),
                "cellsFailed": _count("Cells that no retry of the controller's can finish."),
                "tasks": _count("Tasks of the plan, each once however many cells share it."),
                "tasksDone": _count("Tasks with a record."),
                "tasksRunning": _count("Tasks whose pod runs."),
                "tasksQueued": _count("Tasks that are submitted and wait: for a GPU, a quota, or an earlier task."),
                "tasksFailed": _count("Tasks that were refused or failed too often."),
            },
        },
        "cellsDone": _text("done/total.", 64),
        "cellStates": _text(
            "A letter for every cell, in the order of the plan: Done, Running, Queued, Stopping, sTalled, Failed, Awaited; a dot waits.",
            MOST_CELL_LETTERS,
        ),
        "failedCells": {
            "type": "array",
            "maxItems": MOST_FAILED_CELLS,
            "x-kubernetes-list-type": "atomic",
            "description": f"The first {MOST_FAILED_CELLS} failed cells.",
            "items": _FAILED_CELL,
        },
        "gpuHours": {
            "type": "object",
            "description": "What it has cost, by the leases.",
            "properties": {
                "used": _text("Spent, also by attempts whose pods are gone.", 32),
                "budget": _text("What may be spent.", 32),
                "promised": _text("What is in flight is still estimated to cost.", 32),
                "summary": _text("used/budget.", 64),
            },
        },
        "retention": {
            "type": "object",
            "description": "What the last clearing of the study's store found.",
            "properties": {
                "lookedAt": {"type": "string", "format": "date-time", "description": "When."},
                "objects": _count("Objects that no plan, record or attempt needs."),
                "bytes": _count("Their size."),
                "removed": {"type": "boolean", "description": "Whether they were removed; otherwise they would have been."},
            },
        },
        "eta": _text("When it will be done as it goes now.", 64),
    },
}

COLUMNS: Final[list[Schema]] = [
    {"name": "State", "type": "string", "jsonPath": ".status.phase", "description": "One word for the whole."},
    {"name": "Cells", "type": "string", "jsonPath": ".status.cellsDone", "description": "Cells done of all."},
    {"name": "Failed", "type": "integer", "jsonPath": ".status.counts.cellsFailed", "description": "Cells that no retry can finish."},
    {"name": "GPU-h", "type": "string", "jsonPath": ".status.gpuHours.summary", "description": "GPU-hours spent of the budget."},
    {"name": "ETA", "type": "string", "jsonPath": ".status.eta", "description": "When it will be done as it goes now."},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]
