"""Render tasks as Argo Workflows: `units` groups the tasks of a plan by Workflow, `build` renders a group as a plain dict. Pure."""

from orchestrator.workflow.build import EXECUTOR, TRAINER, WAITER_IMAGE, PodSettings, build_workflow, short
from orchestrator.workflow.fingerprint import fingerprint_workflow
from orchestrator.workflow.units import Unit, remaining, store_label, units, workflow_name

__all__ = [
    "EXECUTOR",
    "TRAINER",
    "WAITER_IMAGE",
    "PodSettings",
    "Unit",
    "build_workflow",
    "fingerprint_workflow",
    "remaining",
    "short",
    "store_label",
    "units",
    "workflow_name",
]
