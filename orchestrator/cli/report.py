"""`scaling-study report FILE`: write the report of a study's completed tasks: a page, figures and tables."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import FileArgument, StoreOption


def register(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    file: FileArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report to this folder. Default: the one that `run` writes to.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write the report of a study's completed tasks: a page, figures and tables.

    Writes OUT/report.html, OUT/figures/*.svg, OUT/runs.parquet, OUT/cells.parquet and OUT/cells.csv. Reads the plan and the records in the
    store, never the training data. Exits 1 if the record of a finished task is damaged or missing.
    """
    from orchestrator import api

    written = api.report(file, store=store, out=out)
    if not written.is_current:
        typer.echo(f"{file} has changed since the study last ran; this report describes the study as it ran.", err=True)
    typer.echo(f"report: {written.page.resolve().as_uri()}")
    for hole in written.holes:
        typer.echo(f"missing in the report: {hole}", err=True)
    if written.holes:
        typer.echo(f"The next `scaling-study run {file}` repeats these tasks", err=True)
        raise typer.Exit(exits.FAILED)
