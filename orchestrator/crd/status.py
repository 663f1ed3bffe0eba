"""The schema of a study's status, and the printer columns of `kubectl get`."""

from typing import Any, Final

from orchestrator.reconcile.task_states import MAX_CELL_LETTERS

Schema = dict[str, Any]

MAX_FAILED_CELLS: Final = 20
"""Maximum number of failed cells listed in the status; `counts.cellsFailed` counts all."""


def text_field(description: str, longest: int = 1024) -> Schema:
    return {"type": "string", "maxLength": longest, "description": description}


def count_field(description: str) -> Schema:
    return {"type": "integer", "format": "int64", "minimum": 0, "description": description}


# metav1.Condition of the Kubernetes API
_CONDITION: Final[Schema] = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
    "properties": {
        "type": text_field("Accepted, Planned, Progressing, BudgetExhausted, Degraded or Succeeded.", 316),
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Status of the condition."},
        "observedGeneration": count_field("Generation of the study that the condition is based on."),
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "Time of the last change of `status`."},
        "reason": {**text_field("Machine-readable reason.", 1024), "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "message": text_field("Human-readable explanation.", 32768),
    },
}

_FAILED_CELL: Final[Schema] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": text_field("Name of the cell.", 256), "reason": text_field("Failed task, and the error of its last attempt.")},
}

STATUS: Final[Schema] = {
    "type": "object",
    "description": "Written by the controller.",
    "properties": {
        "observedGeneration": count_field("Generation of the study that the status is based on."),
        "phase": text_field("Phase of the study: Planning, Refused, Running, Stopping, Paused, Held, Failed or Succeeded.", 64),
        "planDigest": text_field("Digest of the frozen plan.", 64),
        "planVersion": count_field("Version of the frozen plan, counted from 1."),
        "runNumber": count_field("Number of the run; every resume after a pause, and every retry by a user, adds 1."),
        "conditions": {
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "description": "Conditions of the study.",
            "items": _CONDITION,
        },
        "counts": {
            "type": "object",
            "description": "Numbers of cells and tasks by state.",
            "properties": {
                "cells": count_field("Cells of the grid."),
                "cellsDone": count_field("Cells with all records."),
                "cellsFailed": count_field("Cells that failed permanently: the controller does not retry them."),
                "tasks": count_field("Tasks of the plan; a task that several cells share is counted once."),
                "tasksDone": count_field("Tasks with a record."),
                "tasksRunning": count_field("Tasks with a running pod."),
                "tasksQueued": count_field("Submitted tasks that wait for a GPU, a quota, or an earlier task."),
                "tasksFailed": count_field("Tasks that failed permanently."),
            },
        },
        "cellsDone": text_field("Cells done / total.", 64),
        "cellStates": text_field(
            "One letter per cell, in plan order: Done, Running, Queued, Stopping, sTalled, Failed, Awaited; a dot: not submitted.",
            MAX_CELL_LETTERS,
        ),
        "failedCells": {
            "type": "array",
            "maxItems": MAX_FAILED_CELLS,
            "x-kubernetes-list-type": "atomic",
            "description": f"The first {MAX_FAILED_CELLS} failed cells.",
            "items": _FAILED_CELL,
        },
        "gpuHours": {
            "type": "object",
            "description": "GPU-hours of the study, from the leases of its tasks.",
            "properties": {
                "used": text_field("GPU-hours used, including attempts whose pods were deleted.", 32),
                "budget": text_field("Budget in GPU-hours.", 32),
                "promised": text_field("Estimated remaining GPU-hours of the submitted tasks.", 32),
                "summary": text_field("Used / budget.", 64),
            },
        },
        "retention": {
            "type": "object",
            "description": "Result of the last garbage collection of the study's store.",
            "properties": {
                "lookedAt": {"type": "string", "format": "date-time", "description": "Time of the garbage collection."},
                "objects": count_field("Number of unreferenced objects: no plan, record or attempt needs them."),
                "bytes": count_field("Total size of these objects."),
                "removed": {"type": "boolean", "description": "Whether the objects were removed; false for a dry run."},
            },
        },
        "eta": text_field("Estimated time of completion at the current rate.", 64),
    },
}

COLUMNS: Final[list[Schema]] = [
    {"name": "State", "type": "string", "jsonPath": ".status.phase", "description": "Phase of the study."},
    {"name": "Cells", "type": "string", "jsonPath": ".status.cellsDone", "description": "Cells done / total."},
    {"name": "Failed", "type": "integer", "jsonPath": ".status.counts.cellsFailed", "description": "Cells that failed permanently."},
    {"name": "GPU-h", "type": "string", "jsonPath": ".status.gpuHours.summary", "description": "GPU-hours used / budget."},
    {"name": "ETA", "type": "string", "jsonPath": ".status.eta", "description": "Estimated time of completion at the current rate."},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]
