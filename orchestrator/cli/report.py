"""`scaling-study report`: what a study has shown so far, as a page, figures and tables.

It reads the frozen plan and the records, never the sources: a report can be made where the data is not.
"""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; else the one that `run` writes.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="Where the results are, instead of the file's `store`.")] = None,
) -> None:
    """Write OUT/report.html, OUT/figures/*.svg, OUT/runs.parquet, OUT/cells.parquet and OUT/cells.csv from what is done."""
    from analysis.report.page import write_report
    from orchestrator.cli.connect import standing_store
    from orchestrator.errors import PlanRefused
    from orchestrator.spec import read_study
    from orchestrator.store.plans import current, current_spec, planned_part
    from orchestrator.study.opening import store_address
    from orchestrator.tracking import local_folder

    study = read_study(file)
    opened = standing_store(store_address(study, store), study.name)
    frozen = current(opened, study.name)
    if frozen is None:
        raise PlanRefused(
            f"{file}: the store {opened.url} has no study called {study.name!r}, so there is nothing to report.\n"
            f"    `scaling-study run {file}` begins it; `--store` names another store"
        )
    if planned_part(current_spec(opened, study.name) or {}) != planned_part(study.document):
        typer.echo(f"{file} has changed since the study was last run; this report is of the study as it was run.", err=True)
    page = write_report(opened, frozen[1], out or local_folder(opened, study.name) / "report")
    typer.echo(f"report: {page.resolve().as_uri()}")
