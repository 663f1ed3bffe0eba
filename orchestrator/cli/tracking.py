"""`scaling-study tracking mirror`: MLflow made or mended from the store."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

EXIT_STOPPED = 75
"""Ctrl-C twice: see the command line's help."""


def register(app: typer.Typer) -> None:
    tracking = typer.Typer(help="The mirror of a study in MLflow.", no_args_is_help=True)
    tracking.callback()(_no_options)
    tracking.command("mirror")(mirror)
    app.add_typer(tracking, name="tracking")


def mirror(
    study: Annotated[str, typer.Argument(help="The study file, or a study's name together with --store.")],
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
    uri: Annotated[
        str, typer.Option(help="MLflow; else MLFLOW_TRACKING_URI, the place for a password, else an sqlite file beside the results.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until every task is done and mirrored.")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks of --follow.")] = 15,
) -> None:
    """Make or mend the whole mirror of a study from its plan, metrics and records. Doing it again changes nothing.

    One experiment a study, one run a task, curves over tokens. With --follow a server that is away is asked again until it answers.
    Ctrl-C once: a last look; twice: at once (75). Exits 1 when MLflow cannot be reached or something could not be mirrored.
    """
    from orchestrator.cli.connect import standing_store
    from orchestrator.tracking import artifacts_folder, tracking_uri, ui_command
    from orchestrator.tracking.follow import follow as keep_up
    from orchestrator.tracking.follow import mirror_once, told

    name, address = which_study(study, store)
    opened = standing_store(address, name)
    where = tracking_uri(opened, name, uri)
    artifacts = artifacts_folder(opened, name, where)
    if follow:
        try:
            whole = keep_up(opened, name, where, artifacts, _waiting(interval), print, until_done=True)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_STOPPED) from None
    else:
        change = mirror_once(opened, name, where, artifacts)
        print(told(change))
        whole = not change.problems
    print(f"MLflow: {ui_command(where)}")
    if not whole:
        raise typer.Exit(1)


def _no_options() -> None:
    """Keeps `mirror` a subcommand although it is the only one."""


def which_study(study: str, store: str | None) -> tuple[str, str]:
    """Name and store of a study that is given by file or by name."""
    from orchestrator.errors import PlanRefused
    from orchestrator.spec import read_study
    from orchestrator.study.opening import store_address

    if Path(study).is_file():
        read = read_study(Path(study))
        return read.name, store_address(read, store)
    if store is None:
        raise PlanRefused(f"{study}: no such file. If it is the name of a study, say where its store is: --store URL")
    return study, store


def _waiting(interval: float) -> Callable[[], bool]:
    """Sleeps between two looks; SIGTERM and Ctrl-C make the next look the last, the second one ends at once."""
    from orchestrator.tracking.follow import LastTries

    asked, tries = threading.Event(), LastTries("the wish to stop")

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return lambda: asked.wait(interval) and tries.another()
