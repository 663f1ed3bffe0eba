"""`scaling-study tracking mirror`: create or repair a study's MLflow mirror from its store."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import StoreOption


def register(app: typer.Typer) -> None:
    tracking = typer.Typer(help="Maintain the MLflow mirror of a study.", no_args_is_help=True)
    tracking.callback()(_no_options)
    tracking.command("mirror")(mirror)
    app.add_typer(tracking, name="tracking")


def mirror(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Path of the study file, or the study's name together with --store.")],
    store: StoreOption = None,
    uri: Annotated[
        str,
        typer.Option(
            help="Mirror to this MLflow tracking URI. Default: MLFLOW_TRACKING_URI (for a URI with a password), else an SQLite file."
        ),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Keep updating until every task is done and mirrored.")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Wait this many seconds between updates with --follow.")] = 15,
) -> None:
    """Create or repair the MLflow mirror of a study from its plan, metrics and records. It is safe to run again.

    Writes one experiment per study, one run per task, and metrics with tokens as the step. With --follow, an unreachable server is retried;
    the first Ctrl-C makes one last update, the second stops immediately (75). Exits 1 if MLflow is unreachable or a task could not be
    mirrored.
    """
    from orchestrator.monitor.connect import existing_store
    from orchestrator.tracking import artifacts_folder, tracking_uri, ui_command
    from orchestrator.tracking.follow import follow as keep_up
    from orchestrator.tracking.follow import mirror_once, summary_of

    name, address = locate_study(study, store)
    opened = existing_store(address, name)
    target = tracking_uri(opened, name, uri)
    artifacts = artifacts_folder(opened, name, target)
    if follow:
        try:
            is_complete = keep_up(opened, name, target, artifacts, _interruptible_sleep(interval), print, until_done=True)
        except KeyboardInterrupt:
            raise typer.Exit(exits.STOPPED) from None
    else:
        change = mirror_once(opened, name, target, artifacts)
        print(summary_of(change))
        is_complete = not change.problems
    print(f"MLflow: {ui_command(target)}")
    if not is_complete:
        raise typer.Exit(exits.FAILED)


def _no_options() -> None:
    """Keep `mirror` a subcommand although it is the only one."""


def locate_study(study: str, store: str | None) -> tuple[str, str]:
    """Return the name and store address of a study that is given by file or by name. Raises PlanRefused, InvalidStudy."""
    from orchestrator.errors import PlanRefused
    from orchestrator.monitor.connect import is_file
    from orchestrator.spec import read_study
    from orchestrator.study.opening import store_address

    if is_file(study):
        found = read_study(Path(study))
        return found.name, store_address(found, store)
    if store is None:
        raise PlanRefused(f"{study}: no such file. If it is the name of a study, give its store: --store URL")
    return study, store


def _interruptible_sleep(interval: float) -> Callable[[], bool]:
    """Return a sleep between updates. The first SIGTERM or Ctrl-C makes the next update the last; the second stops immediately."""
    from orchestrator.tracking.follow import LastAttempts

    asked, tries = threading.Event(), LastAttempts("the stop request")

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return lambda: asked.wait(interval) and tries.another()
