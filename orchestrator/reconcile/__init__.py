"""Decides what a study needs next: the heart of the cluster side.

The controller reads the cluster and the store, calls `reconcile` and applies what it returns; the loop over Argo Server does the same.
Nothing here reads a clock, a file or the network, so every decision can be tested as a table.
"""

from orchestrator.reconcile.actions import Action, Decision, Delete, ForceDelete, GiveUp, Restart, Stop, StudyEvent, Submit
from orchestrator.reconcile.decide import Limits, StudyFacts, reconcile

__all__ = [
    "Action",
    "Decision",
    "Delete",
    "ForceDelete",
    "GiveUp",
    "Limits",
    "Restart",
    "Stop",
    "StudyEvent",
    "StudyFacts",
    "Submit",
    "reconcile",
]
