"""`scaling-study explain FILE CELL`: a cell's stages and tasks, which are done, and what keeps it from sharing with another cell."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)


def explain(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    cell: Annotated[str, typer.Argument(help="A cell, such as from-scratch/470M/c25/s1, or a digest (12 digits or more).")],
    beside: Annotated[str | None, typer.Option("--with", help="The cell to compare with; the nearest one unless given.")] = None,
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
) -> None:
    """Show what a cell is made of and which of it is done; or, for a digest, its task, its cells and its record.

    Digests of train tasks can be shared: the last column says with how many other cells.
    """
    from orchestrator.cli.explain_tables import print_cell, print_task
    from orchestrator.planning.explain import find_cell
    from orchestrator.store.records import done
    from orchestrator.study.opening import open_study

    opened = open_study(file, store, only_looks=True)
    digests = [digest for digest in opened.plan.tasks if len(cell) >= 12 and digest.startswith(cell)]
    if digests:
        print_task(opened.store, opened.plan, digests[0])
        return
    asked = find_cell(opened.plan, cell)
    other = None if beside is None else find_cell(opened.plan, beside)
    print_cell(opened.plan, asked, other, done(opened.store))
