"""`scaling-study run FILE`: everything that a study asks for, on this machine, and a report at the end."""

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.contract.events import Placement
    from orchestrator.local import RunResult
    from orchestrator.study import Opened
    from orchestrator.tracking import Beside

# Exit codes of `run`: see the command line's help
MISSING = 1
STOPPED = 75
# Seconds that the end waits for the mirror's last look: a database on a busy machine needs some, a person who pressed Ctrl-C waits less
LAST_LOOK = 30.0
STOPPED_WAIT = 10.0
# Tasks that --dry-run lists by name; the rest are counted
LISTED = 40


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one a core, or as many as there are GPUs for.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A cell's name or a pattern like '*-60M-*'; may be given again.")] = None,
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; `report` beside the results unless given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and write nothing.")] = False,
    replan: Annotated[bool, typer.Option("--replan", help="Plan anew although the files of a source have changed.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a worker; another number changes the last bits of results.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each worker; 0: the CPU.")] = 0,
    checkpoint_seconds: Annotated[int, typer.Option(min=1, help="Between two checkpoints of a task.")] = 60,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow; an sqlite file beside the results unless given here or in the environment.")
    ] = "",
    tracking: Annotated[bool, typer.Option(help="Mirror to MLflow while it runs.")] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
) -> None:
    """Run a study on this machine.

    Done tasks are skipped and half-done ones go on, so running again always helps. Ctrl-C once: tasks write a checkpoint and stop; twice:
    at once. Ends with the report. Exits 1 when cells are missing at the end, 75 when it was stopped.
    """
    from orchestrator.contract.events import Placement
    from orchestrator.errors import PlanRefused
    from orchestrator.study import inputs, keep, open_study

    opened = open_study(file, store, replan=replan)
    _refuse(opened)
    if dry_run:
        _show(opened, only or [])
        return
    if opened.study.spec.paused:
        raise PlanRefused(f"{file}: spec.paused is true, so nothing runs; take it away, or see what would run with --dry-run")
    keep(opened)
    placement = Placement(
        study=opened.plan.study,
        run_number=int(opened.store.clock().timestamp()),
        gpus=gpus,
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        inputs=inputs(opened.study, opened.plan),
    )
    beside = _mirror(opened, tracking_uri) if tracking else None
    try:
        result = _work(opened, placement, workers, only or [], plain)
    finally:
        if beside is not None:
            beside.last_look()
    if result.was_stopped:
        again = ["scaling-study", "run", str(file), *(["--store", store] if store else []), *(f"--only={each}" for each in only or [])]
        print(f"Stopped. What is done is kept; to go on: {shlex.join(again)}")
    else:
        _report(opened, out)
    if beside is not None:
        _tell_mirror(opened, beside, STOPPED_WAIT if result.was_stopped else LAST_LOOK)
    _conclude(opened, result)


def _refuse(opened: "Opened") -> None:
    """What a plan shows and this machine would find out hours later: raises PlanRefused for sources that are read too often."""
    from orchestrator.repetition import readings, refuse_repetition
    from orchestrator.store.records import done
    from orchestrator.study import known_tokens

    finished = done(opened.store) & opened.plan.tasks.keys()
    refuse_repetition(readings(opened.plan, opened.study.spec.data.sources, known_tokens(opened, finished)))


def _show(opened: "Opened", only: list[str]) -> None:
    """What would run, in the order of one worker."""
    from orchestrator.local import in_order, wanted_tasks
    from orchestrator.store.records import done

    wanted = wanted_tasks(opened.plan, only)
    finished = done(opened.store) & wanted
    todo = list(in_order(opened.plan, wanted, finished))
    print(f"{opened.plan.study}: {len(wanted)} tasks, {len(finished)} done, {len(todo)} to run in {opened.store.url}")
    for planned in todo[:LISTED]:
        print(f"  {planned.kind:8} {planned.label} [{planned.digest[:12]}]")
    if len(todo) > LISTED:
        print(f"  ... and {len(todo) - LISTED} more")


def _work(opened: "Opened", placement: "Placement", workers: int, only: list[str], plain: bool) -> "RunResult":
    """The tasks themselves, under the eyes of whoever watches."""
    from orchestrator.local import StopRequest, run_plan
    from orchestrator.plan.settle import by_size
    from orchestrator.progress import PlainLines, choose_view
    from orchestrator.tracking import local_folder

    plan, stop = opened.plan, StopRequest()
    print(f"{plan.study}: {len(plan.cells)} cells, {len(plan.tasks)} tasks, results in {opened.store.url}")
    given = {size: by_size(opened.study.spec.execution.micro_batch, size) for size in plan.shapes}
    with stop.on_signals(), PlainLines() if plain else choose_view() as view:
        return run_plan(
            opened.store,
            plan,
            placement,
            workers=workers,
            only=only,
            listener=view,
            stop=stop,
            logs=local_folder(opened.store, plan.study) / "logs",
            micro_batch={size: number for size, number in given.items() if number},
            prepared=lambda: _refuse(opened),
        )


def _mirror(opened: "Opened", uri: str) -> "Beside | None":
    """The mirror's process, None where mlflow is not installed: a run does not need it."""
    from orchestrator.tracking import Beside, local_folder, tracking_uri

    if find_spec("mlflow") is None:
        print(
            "MLflow is not installed, so nothing is mirrored to it: pip install 'scaling-study[local]', then scaling-study tracking mirror"
        )
        return None
    study = opened.plan.study
    log = local_folder(opened.store, study) / "logs" / "tracking.log"
    return Beside(opened.store, study, tracking_uri(opened.store, study, uri), log)


def _tell_mirror(opened: "Opened", beside: "Beside", seconds: float) -> None:
    """Waits so long for the last look, and says where to look or how to make up for it."""
    from orchestrator.tracking import repair_command, ui_command

    if beside.finish(seconds):
        print(f"MLflow: {ui_command(beside.uri)}")
    else:
        print(f"MLflow at {beside.uri} is not up to date ({beside.last_words()}). Nothing is lost; to make up for it:")
        print(f"  {repair_command(opened.store, opened.plan.study, beside.uri)}")


def _report(opened: "Opened", out: Path | None) -> None:
    from orchestrator.errors import MissingExtra
    from orchestrator.tracking import local_folder

    try:
        from analysis.report import write_report

        page = write_report(opened.store, opened.plan, out or local_folder(opened.store, opened.plan.study) / "report")
    except MissingExtra as problem:
        print(f"no report: {problem}")
    else:
        print(f"report: {page.resolve().as_uri()}")


def _conclude(opened: "Opened", result: "RunResult") -> None:
    """The last lines, and the exit code."""
    from orchestrator.progress import duration, holes

    new = len(result.done) - result.skipped
    print(f"{len(result.done)} tasks done ({new} now, {result.skipped} before) in {duration(result.seconds)}")
    if result.was_stopped:
        raise typer.Exit(STOPPED)
    if not result.is_complete:
        print(f"{len(result.failed)} tasks failed and {len(result.held_back)} need them. Missing:")
        for hole in holes(opened.plan, result.failed, result.held_back):
            print(f"  {hole}")
        raise typer.Exit(MISSING)
