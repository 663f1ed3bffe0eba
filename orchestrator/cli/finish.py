"""How a run ends, on this machine and elsewhere: the report, the mirror in MLflow, the last lines and the exit code.

`run` and `run_remote` call it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from orchestrator.contract.plan import Plan
    from orchestrator.local import RunResult
    from orchestrator.store import Store
    from orchestrator.tracking import Beside

# Exit codes of `run`: see the command line's help
MISSING = 1
STOPPED = 75
# Seconds that the end waits for the mirror's last look: a database on a busy machine needs some, a person who pressed Ctrl-C waits less
LAST_LOOK = 30.0
STOPPED_WAIT = 10.0


def start_mirror(store: "Store", study: str, uri: str) -> "Beside | None":
    """The mirror's process, None where mlflow is not installed: a run does not need it."""
    from orchestrator.tracking import Beside, local_folder, tracking_uri

    if find_spec("mlflow") is None:
        print(
            "MLflow is not installed, so nothing is mirrored to it: pip install 'scaling-study[local]', then scaling-study tracking mirror"
        )
        return None
    log = local_folder(store, study) / "logs" / "tracking.log"
    try:
        return Beside(store, study, tracking_uri(store, study, uri), log)
    except OSError as problem:
        print(f"nothing is mirrored to MLflow: {problem}")
        return None


def tell_mirror(store: "Store", study: str, beside: "Beside", seconds: float) -> None:
    """Waits so long for the last look, and says where to look or how to make up for it."""
    from orchestrator.tracking import masked, repair_command, ui_command

    if beside.finish(seconds):
        print(f"MLflow: {ui_command(beside.uri)}")
    else:
        print(f"MLflow at {masked(beside.uri)} is not up to date ({beside.last_words()}). Nothing is lost; to make up for it:")
        print(f"  {repair_command(store, study, beside.uri)}")


def report(store: "Store", plan: "Plan", out: Path | None) -> None:
    from orchestrator.errors import MissingExtra, ReportNotWritten
    from orchestrator.tracking import local_folder

    try:
        from analysis.report.page import write_report

        page = write_report(store, plan, out or local_folder(store, plan.study) / "report")
    except (MissingExtra, ReportNotWritten) as problem:
        print(f"no report: {problem}")
    else:
        print(f"report: {page.resolve().as_uri()}")


def conclude(plan: "Plan", result: "RunResult") -> None:
    """The last lines, and the exit code."""
    from orchestrator.contract.formatting import duration
    from orchestrator.monitor.progress import holes

    new = len(result.done) - result.skipped
    print(f"{len(result.done)} tasks done ({new} now, {result.skipped} before) in {duration(result.seconds)}")
    if result.was_stopped:
        raise typer.Exit(STOPPED)
    if not result.is_complete:
        print(f"{len(result.failed)} tasks failed and {len(result.held_back)} need them. Missing:")
        for hole in holes(plan, result.failed, result.held_back):
            print(f"  {hole}")
        raise typer.Exit(MISSING)
