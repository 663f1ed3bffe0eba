"""Decide what a study needs next.

The controller and `orchestrator.remote` read the cluster and the store, call `reconcile` and apply the returned actions. No clock, file
or network access, so every decision can be tested as a table.
"""

from orchestrator.reconcile.actions import Action, Decision, Delete, ForceDelete, RecordFailure, Restart, Stop, StudyEvent, Submit
from orchestrator.reconcile.decide import Limits, reconcile
from orchestrator.reconcile.observed import StudyFacts

__all__ = [
    "Action",
    "Decision",
    "Delete",
    "ForceDelete",
    "Limits",
    "RecordFailure",
    "Restart",
    "Stop",
    "StudyEvent",
    "StudyFacts",
    "Submit",
    "reconcile",
]
