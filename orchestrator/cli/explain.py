"""`scaling-study explain FILE CELL`: show a cell's stages and tasks, and what prevents sharing with another cell."""

from typing import Annotated

import typer

from orchestrator.cli.connect import FileArgument, StoreOption


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)


def explain(
    file: FileArgument,
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL", help="Name of a cell, such as from-scratch/470M/c25/s1, or the first 12 or more digits of a task digest."
        ),
    ],
    other: Annotated[str | None, typer.Option("--with", help="Compare with this cell. Default: the most similar one.")] = None,
    store: StoreOption = None,
) -> None:
    """Show a cell's stages, its tasks and which of them are done; or, for a digest, the task, its cells and its record.

    A task can serve several cells: the column `shared with` counts the others. Below the table are the settings that prevent sharing with
    the compared cell.
    """
    from orchestrator.cli.explain_tables import print_cell, print_task
    from orchestrator.planning.explain import find_cell
    from orchestrator.store.records import finished_tasks
    from orchestrator.study.opening import open_study

    opened = open_study(file, store, read_only=True)
    digests = [digest for digest in opened.plan.tasks if len(cell) >= 12 and digest.startswith(cell)]
    if digests:
        print_task(opened.store, opened.plan, digests[0])
        return
    found = find_cell(opened.plan, cell)
    done = finished_tasks(opened.store, opened.plan.tasks)
    print_cell(opened.plan, found, None if other is None else find_cell(opened.plan, other), done)
