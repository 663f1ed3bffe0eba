"""`scaling-study status`: show the state of every cell of a study, and what is running, waiting and missing."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import PLUGIN, ContextOption, NamespaceOption, StoreOption, StudyArgument, program_of

if TYPE_CHECKING:
    from orchestrator.monitor.grid_table import RecipeGrid
    from orchestrator.monitor.study_view import ActiveTask, StudyView


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    ctx: typer.Context,
    study: StudyArgument,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Show the progress of a study: a table of sizes x code percent per recipe, and the tasks that are running, waiting or failed.

    Reads the plan, records and leases in the store, never the training data. Reads the cluster if you name one (-n, --context or the file's
    namespace), give only the study's name, or the store is unreachable. Exits 1 if a task has failed permanently or the study was rejected.
    """
    from orchestrator import api
    from orchestrator.cli.grid import console, needs_ascii, render_view

    view = api.status(study, store=store, namespace=namespace, context=context, prefer_cluster=program_of(ctx) == PLUGIN)
    if as_json:
        print(json.dumps(document(view), indent=1, ensure_ascii=False))
    else:
        terminal = console()
        terminal.print(render_view(view, only_ascii=needs_ascii(terminal)))
    if needs_attention(view):
        raise typer.Exit(exits.FAILED)


def needs_attention(view: "StudyView") -> bool:
    """Whether the study cannot complete until the user acts."""
    return bool(view.failed) or view.phase in ("Refused", "Failed")


def document(view: "StudyView") -> dict[str, Any]:
    """Return everything `status` shows, as JSON values. Times are in seconds; unknown values are null."""
    from orchestrator.cli.grid import damaged_tasks, missing
    from orchestrator.cluster.study_object import status_of
    from orchestrator.monitor.grid_table import recipe_grids

    written = status_of(view.body or {})
    return {
        "study": view.name,
        "namespace": view.namespace or None,
        "phase": view.phase,
        "store": view.store,
        "trouble": view.trouble or None,
        "tasks": {str(state): number for state, number in sorted(view.counts.items())},
        "counts": written.get("counts"),
        "secondsLeft": None if view.seconds_left is None else round(view.seconds_left, 1),
        "gpuHours": written.get("gpuHours")
        or {"used": f"{view.gpu_seconds / 3600:.2f}", **({"budget": view.budget} if view.budget else {})},
        "grids": [_grid(grid) for grid in recipe_grids(view.cells)],
        "cells": [{"name": each.cell.name, "state": str(each.state), "progress": round(each.progress, 4)} for each in view.cells],
        "atWork": [_at_work(work) for work in view.active_tasks],
        "waits": [{"reason": reason, "tasks": number} for reason, number in view.waits.items()],
        "missing": missing(view),
        "damaged": damaged_tasks(view),
        "conditions": list(written.get("conditions") or ()),
    }


def _grid(grid: "RecipeGrid") -> dict[str, Any]:
    squares = [
        {
            "size": square.size,
            "codePercent": square.code_percent or None,
            "state": str(square.state),
            "done": square.done,
            "total": square.total,
            "progress": round(square.progress, 4),
            "secondsLeft": None if square.seconds_left is None else round(square.seconds_left, 1),
        }
        for square in grid.squares.values()
    ]
    return {"recipe": grid.recipe, "sizes": list(grid.sizes), "codePercents": list(filter(None, grid.code_percents)), "squares": squares}


def _at_work(work: "ActiveTask") -> dict[str, Any]:
    lease = work.lease
    return {
        "digest": work.task.digest,
        "kind": str(work.task.kind),
        "label": work.task.label,
        "state": str(work.state),
        "reason": work.reason or None,
        "pod": work.pod or None,
        "host": lease.host if lease else None,
        "pid": lease.pid if lease else None,
        "attempt": lease.number if lease else None,
        "tokens": lease.tokens if lease else None,
        "since": lease.start.isoformat() if lease else None,
        "lastStep": lease.renewed.isoformat() if lease else None,
    }
