"""Public Python API: plan, run, inspect and report a scaling study.

The commands of the same names parse their flags and call these functions. Every function takes the path of a study file and returns a small
result object. Errors are subclasses of `orchestrator.errors.ScalingStudyError`. `import orchestrator` re-exports the names in `__all__`.
"""

from orchestrator.api.local import preview_run, run
from orchestrator.api.options import ArgoServer, RemoteRunOptions, RunOptions
from orchestrator.api.outcomes import RunOutcome, RunPreview, StudyPlan, StudyReport
from orchestrator.api.plans import plan
from orchestrator.api.remote import run_remote
from orchestrator.api.reports import report, status

__all__ = [
    "ArgoServer",
    "RemoteRunOptions",
    "RunOptions",
    "RunOutcome",
    "RunPreview",
    "StudyPlan",
    "StudyReport",
    "plan",
    "preview_run",
    "report",
    "run",
    "run_remote",
    "status",
]
