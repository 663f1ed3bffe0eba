"""`scaling-study plan FILE`: what a study will do, what it costs, and what is odd about it, before anything runs."""

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.planning.summary import Outline
    from orchestrator.study.opening import Opened


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says. It is asked what is done.")] = None,
    ask_store: Annotated[bool, typer.Option(help="Ask the store of the file what is done, also when it is a bucket.")] = False,
    gpu: Annotated[str, typer.Option(help="GPU that is priced: a100, h100, h200, b200.")] = "h100",
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation that is reckoned with.")] = 0.45,
    price: Annotated[float | None, typer.Option(min=0, max=1e9, help="Money a GPU-hour, in any currency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
    graph: Annotated[Path | None, typer.Option(help="Draw tasks and their needs into this SVG file (extra `graph`).")] = None,
) -> None:
    """Plan and price a study. Nothing is written to the store.

    Shows cells, tasks, what sharing saves, epochs a source, parameters, batches, rates and where they come from, steps, FLOPs, GPU-hours
    and the longest path. Exits 1 when the plan cannot be run, 2 when the file has mistakes.
    """
    from orchestrator.cli.plan_tables import print_outline
    from orchestrator.planning import is_runnable
    from orchestrator.study.opening import preview_study

    gc.disable()  # this process ends with its one answer: nothing of a plan is garbage before that
    opened = preview_study(file, store)
    asks = ask_store or store is not None or "://" not in opened.store.url
    shown = _outline(opened, gpu, mfu, price, asks)
    if as_json:
        print(json.dumps(shown.document(), indent=1))
    else:
        print_outline(shown)
    if graph is not None:
        from orchestrator.cli.outputs import writing
        from orchestrator.planning.graph import draw

        with writing(graph, "a file in a folder that is there: --graph plan.svg"):
            draw(opened.plan, graph)
        print(f"graph: {graph}", file=sys.stderr)
    gc.freeze()  # nor is it searched at the end
    if not is_runnable(opened.plan):
        raise typer.Exit(1)


def _outline(opened: "Opened", gpu: str, mfu: float, price: float | None, asks: bool) -> "Outline":
    from orchestrator.planning.estimate import Price, estimate
    from orchestrator.planning.repetition import readings, refuse_repetition
    from orchestrator.planning.summary import outline
    from orchestrator.store.records import done
    from orchestrator.study.opening import gpu_seconds_a_token, known_tokens

    finished = done(opened.store) & opened.plan.tasks.keys() if asks else set()
    reads = readings(opened.plan, opened.study.spec.data.sources, known_tokens(opened, finished))
    refuse_repetition(reads)
    tariff = Price(gpu, mfu, price, gpu_seconds_a_token(opened, finished))
    warnings = [f"{name}: {why}" for name, why in opened.unreachable.items()]
    return outline(opened.study.spec, opened.plan, estimate(opened.plan, tariff, finished), tariff, reads, finished, warnings)
