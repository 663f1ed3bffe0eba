"""`scaling-study run FILE`: everything that a study asks for, on this machine or by an Argo Server, and a report at the end."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import finish as ending

if TYPE_CHECKING:
    from orchestrator.contract.events import Placement
    from orchestrator.local import RunResult
    from orchestrator.study.opening import Opened

# Tasks that --dry-run lists by name; the rest are counted
LISTED = 40
# What only a run on this machine can be asked, and what only a run elsewhere
HERE_ONLY = ("workers", "only", "dry_run", "replan", "threads", "gpus", "checkpoint_seconds")
THERE_ONLY = ("token", "token_file", "namespace", "ca_file", "insecure", "logs")
ELSEWHERE = "On a cluster, by Argo Server"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The study file.")],
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one a core, or as many as there are GPUs for.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A cell's name or a pattern like '*/60M/*'; may be given again.")] = None,
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; `report` beside the results unless given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and what keeps it from it, and write nothing.")] = False,
    replan: Annotated[bool, typer.Option("--replan", help="Plan anew although the files of a source have changed.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a worker; another number changes the last bits of results.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="1: every worker has a GPU of its own; 0: the CPU.")] = 0,
    checkpoint_seconds: Annotated[int, typer.Option(min=1, help="Between two checkpoints of a task.")] = 60,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow; else MLFLOW_TRACKING_URI, the place for a password, else an sqlite file beside the results.")
    ] = "",
    tracking: Annotated[bool, typer.Option(help="Mirror to MLflow while it runs.")] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
    argo_server: Annotated[
        str, typer.Option(help="Run on the cluster of this Argo Server instead, by a URL.", rich_help_panel=ELSEWHERE)
    ] = "",
    token: Annotated[
        str,
        typer.Option(envvar="ARGO_TOKEN", help="Whom the server takes us for; better not on the command line.", rich_help_panel=ELSEWHERE),
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the token, read before every call.", rich_help_panel=ELSEWHERE)
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="ARGO_NAMESPACE", help="Where the Workflows run.", rich_help_panel=ELSEWHERE)
    ] = "",
    ca_file: Annotated[Path | None, typer.Option(help="Certificate of who has signed the server's.", rich_help_panel=ELSEWHERE)] = None,
    insecure: Annotated[bool, typer.Option("--insecure-skip-verify", help="Believe any certificate.", rich_help_panel=ELSEWHERE)] = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Show what the pods write; takes the right to it.", rich_help_panel=ELSEWHERE)
    ] = False,
) -> None:
    """Run a study on this machine, or by an Argo Server on a cluster.

    Done tasks are skipped and half-done ones go on, so running again always helps. Ctrl-C once: tasks write a checkpoint and stop; twice:
    at once. Ends with the report. Exits 1 when cells are missing at the end, 75 when it was stopped.

    With --argo-server this process only looks after the Workflows: kill it, and they go on; start it again, and it goes on with them.
    """
    _refuse_mixed_options(ctx, bool(argo_server))
    if argo_server:
        from orchestrator.cli.run_remote import Server, Wishes, run_there

        server = Server(argo_server, namespace, token, token_file, ca_file, insecure)
        run_there(file, server, Wishes(store, out, tracking_uri if tracking else None, plain, logs))
        return
    from orchestrator.contract.events import Placement
    from orchestrator.study.opening import inputs, keep, open_study

    opened = open_study(file, store, replan=replan, only_looks=dry_run)
    _refuse(opened)
    if dry_run:
        _show(opened, only or [])
    _refuse_to_begin(opened, gpus, workers)
    if dry_run:
        return
    keep(opened)
    placement = Placement(
        study=opened.plan.study,
        run_number=int(opened.store.clock().timestamp()),
        gpus=gpus,
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        inputs=inputs(opened.study, opened.plan),
    )
    beside = ending.start_mirror(opened.store, opened.plan.study, tracking_uri) if tracking else None
    try:
        result = _work(opened, placement, workers, only or [], plain)
    finally:
        if beside is not None:
            beside.last_look()
    if result.was_stopped:
        print(f"Stopped. What is done is kept; to go on: {shlex.join(_again(sys.argv[1:]))}")
    else:
        ending.report(opened.store, opened.plan, out)
    if beside is not None:
        ending.tell_mirror(opened.store, opened.plan.study, beside, ending.STOPPED_WAIT if result.was_stopped else ending.LAST_LOOK)
    ending.conclude(opened.plan, result)


def _again(given: Sequence[str]) -> list[str]:
    """The command as it was given, since threads and GPUs decide the last bits of results; the new plan that it asked for is there."""
    from orchestrator.tracking import masked

    return ["scaling-study", *(masked(word) for word in given if word != "--replan")]


def _refuse_mixed_options(ctx: typer.Context, is_elsewhere: bool) -> None:
    """Options of a run here are mistakes of a run elsewhere, and the other way round."""
    given = [name for name in ctx.params if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"]
    words = {option.name: option.opts[0] for option in ctx.command.params}
    for name in given:
        word = words[name]
        if is_elsewhere and name in HERE_ONLY:
            raise typer.BadParameter(f"{word} is for a run on this machine and not for one by --argo-server", ctx)
        if not is_elsewhere and name in THERE_ONLY:
            raise typer.BadParameter(f"{word} is for a run by --argo-server URL", ctx)
    if is_elsewhere and not ctx.params["namespace"]:
        raise typer.BadParameter("--argo-server needs --namespace NAME: where the Workflows run", ctx)


def _refuse(opened: "Opened") -> None:
    """What a plan shows and this machine would find out hours later: raises PlanRefused for sources that are read too often."""
    from orchestrator.planning.repetition import readings, refuse_repetition
    from orchestrator.store.records import done
    from orchestrator.study.opening import known_tokens

    finished = done(opened.store) & opened.plan.tasks.keys()
    refuse_repetition(readings(opened.plan, opened.study.spec.data.sources, known_tokens(opened, finished)))


def _refuse_to_begin(opened: "Opened", gpus: int, workers: int) -> None:
    """What keeps a run from beginning, also one that is only shown: raises PlanRefused."""
    from orchestrator.errors import PlanRefused
    from orchestrator.local.workers import share_gpus
    from orchestrator.study.opening import refuse_unknown

    if opened.study.spec.paused:
        raise PlanRefused(f"{opened.study.path}: spec.paused is true, so nothing runs; take it away. --dry-run shows what would run")
    refuse_unknown(opened)
    if gpus:
        share_gpus(gpus, workers)


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
    from orchestrator.monitor.progress import PlainLines, choose_view
    from orchestrator.planning.defaults import by_size
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
