"""`scaling-study plan FILE`: show what a study will run and cost, with warnings, before anything runs."""

import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import FileArgument


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    file: FileArgument,
    store: Annotated[
        str | None,
        typer.Option(help="Look up completed tasks in the store at this address. Default: the study file's store if it is a folder."),
    ] = None,
    ask_store: Annotated[bool, typer.Option(help="Look up completed tasks in the study file's store even if it is a bucket.")] = False,
    gpu: Annotated[
        str,
        typer.Option(
            help="Price this GPU (a100, h100, h200, b200) or this machine's CPU (cpu). Default: cpu if all sizes are below 8M, else h100."
        ),
    ] = "",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure how fast this machine trains the sizes below 8M (about a second per size), to price its CPU."
        ),
    ] = False,
    mfu: Annotated[float, typer.Option(help="Assume this MFU (model FLOPs utilisation), above 0 and at most 1.")] = 0.45,
    price: Annotated[
        float | None, typer.Option(min=0, max=1e9, help="Show costs at this price per GPU-hour, in any currency. Default: no costs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
    tasks: Annotated[bool, typer.Option("--tasks", help="List every task with its digest, kind, state, tokens and dependencies.")] = False,
    graph: Annotated[Path | None, typer.Option(help="Draw the task graph to this SVG file; requires the extra `graph`.")] = None,
) -> None:
    """Plan and price a study, without writing to its store.

    Shows cells, tasks, tokens saved by sharing, epochs per source, parameters, batch sizes, learning rates and their origin, steps, FLOPs,
    GPU-hours, and the longest path: the chain of dependent tasks that takes most time. Parameters of a size: `body` without embeddings, `N`
    without the input embedding, `all`. Exits 1 if the plan cannot run, for example because a source is unreachable, and 2 if the file is
    invalid.
    """
    gc.disable()  # the process ends after this command, and nothing in a plan is garbage before that
    from orchestrator import api
    from orchestrator.cli.plan_tables import print_summary, print_tasks

    planned = api.plan(file, store=store, ask_store=ask_store, gpu=gpu, mfu=mfu, price=price, measure=measure)
    if as_json:
        listed = {"task_list": [asdict(row) for row in planned.tasks]} if tasks else {}
        print(json.dumps({**planned.summary.document(), **listed}, indent=1))
    else:
        print_summary(planned.summary)
        if tasks:
            print_tasks(planned.tasks)
    if graph is not None:
        from orchestrator.cli.outputs import writing
        from orchestrator.planning.graph import draw

        with writing(graph, "a file in an existing folder: --graph plan.svg"):
            draw(planned.plan, graph)
        print(f"graph: {graph}", file=sys.stderr)
    gc.freeze()  # skips the collection at exit
    if not planned.is_runnable:
        raise typer.Exit(exits.FAILED)
