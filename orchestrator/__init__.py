"""Plan, price and run scaling studies, on one machine or on Kubernetes. Nothing in this package imports torch.

The public API is in `orchestrator.api`; its names are imported on first use, so that `import orchestrator` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.api import (
        ArgoServer,
        RemoteRunOptions,
        RunOptions,
        RunOutcome,
        RunPreview,
        StudyPlan,
        StudyReport,
        plan,
        preview_run,
        report,
        run,
        run_remote,
        status,
    )

    __version__: str

__all__ = [
    "ArgoServer",
    "RemoteRunOptions",
    "RunOptions",
    "RunOutcome",
    "RunPreview",
    "StudyPlan",
    "StudyReport",
    "__version__",
    "plan",
    "preview_run",
    "report",
    "run",
    "run_remote",
    "status",
]


def __getattr__(name: str) -> object:
    """Import an exported name on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("scaling-study")
    if name in __all__:
        return getattr(import_module("orchestrator.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
