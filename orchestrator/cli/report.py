"""`scaling-study report FILE`: write the report of a study's completed tasks: a page, figures and tables."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.connect import FileArgument, StoreOption


def register(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    file: FileArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write. Default: the one that `run` writes.")] = None,
    store: StoreOption = None,
) -> None:
    """Write the report of a study's completed tasks: a page, figures and tables.

    Writes OUT/report.html, OUT/figures/*.svg, OUT/runs.parquet, OUT/cells.parquet and OUT/cells.csv. Reads the plan and the records in the
    store, never the sources.
    """
    from orchestrator import api

    written = api.report(file, store=store, out=out)
    if not written.is_current:
        typer.echo(f"{file} has changed since the study last ran; this report describes the study as it ran.", err=True)
    typer.echo(f"report: {written.page.resolve().as_uri()}")
