"""`scaling-study status`: the grid of a study with the state of every cell, and below it what runs, waits, is missing, and why."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StoreOption, StudyArgument

if TYPE_CHECKING:
    from orchestrator.monitor.grid_table import RecipeGrid
    from orchestrator.monitor.study_view import AtWork, StudyView


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
    """Show how far a study is: a table of sizes x code percent for each recipe, and what runs, waits and is missing.

    Reads the frozen plan, records and leases in the store, never the sources. With a namespace, or when the store cannot be reached from
    here, it shows what the cluster says too. Exits 1 when a task has failed for good or the study was refused.
    """
    from orchestrator.cli.grid import console, drawn, speaks_ascii
    from orchestrator.cli.status_readers import lookout

    with lookout(ctx, study, namespace, context, store) as looking:
        view = looking.look()
    if as_json:
        print(json.dumps(document(view), indent=1, ensure_ascii=False))
    else:
        shown_on = console()
        shown_on.print(drawn(view, only_ascii=speaks_ascii(shown_on)))
    if is_bad(view):
        raise typer.Exit(1)


def is_bad(view: "StudyView") -> bool:
    """Whether a person must do something before all of it can be done."""
    return bool(view.failed) or view.phase in ("Refused", "Failed")


def document(view: "StudyView") -> dict[str, Any]:
    """All that `status` shows, for programs. Times are in seconds; what is not known is null."""
    from orchestrator.cli.grid import missing
    from orchestrator.cluster.study_object import status_of
    from orchestrator.monitor.grid_table import recipe_grids

    told = status_of(view.body or {})
    return {
        "study": view.name,
        "namespace": view.namespace or None,
        "phase": view.phase,
        "store": view.store,
        "trouble": view.trouble or None,
        "tasks": {str(state): number for state, number in sorted(view.counts.items())},
        "counts": told.get("counts"),
        "secondsLeft": None if view.seconds_left is None else round(view.seconds_left, 1),
        "gpuHours": told.get("gpuHours") or {"used": f"{view.gpu_seconds / 3600:.2f}", **({"budget": view.budget} if view.budget else {})},
        "grids": [_grid(grid) for grid in recipe_grids(view.cells)],
        "cells": [{"name": each.cell.name, "state": str(each.state), "progress": round(each.progress, 4)} for each in view.cells],
        "atWork": [_at_work(work) for work in view.at_work],
        "waits": [{"reason": reason, "tasks": number} for reason, number in view.waits.items()],
        "missing": missing(view),
        "conditions": list(told.get("conditions") or ()),
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


def _at_work(work: "AtWork") -> dict[str, Any]:
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
