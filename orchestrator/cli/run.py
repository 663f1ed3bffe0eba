"""`scaling-study run FILE`: run a study on this machine, or on a cluster through an Argo Server, and write its report."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import FileArgument, StoreOption

if TYPE_CHECKING:
    from orchestrator.api import ArgoServer, RemoteRunOptions, RunOutcome, RunPreview

# Tasks that --dry-run lists by name; the rest are counted
LISTED: Final = 40
# Panels of --help. An option belongs to one kind of run if its panel does; the others belong to both
LOCAL: Final = "On this machine"
REMOTE: Final = "On a cluster, through an Argo Server"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    ctx: typer.Context,
    file: FileArgument,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Start this many worker processes; 0: one per core, or with --gpus one per GPU.", rich_help_panel=LOCAL),
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only these cells: a name or a pattern like '*/60M/*'. Repeatable.", rich_help_panel=LOCAL)
    ] = None,
    store: StoreOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the report to this folder. Default: `report` in the store, or in ./STUDY.local if the store is a bucket."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the tasks that would run, and what prevents the run; write nothing.", rich_help_panel=LOCAL),
    ] = False,
    replan: Annotated[
        bool,
        typer.Option(
            "--replan",
            help="Make a new plan if the files of a source have changed, instead of exiting with an error.",
            rich_help_panel=LOCAL,
        ),
    ] = False,
    threads: Annotated[
        int,
        typer.Option(
            min=1, help="Use this many threads per worker. A different number changes the last bits of results.", rich_help_panel=LOCAL
        ),
    ] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Give each worker this many GPUs: 1, or 0 to use the CPU.", rich_help_panel=LOCAL)] = 0,
    checkpoint_seconds: Annotated[
        int, typer.Option(min=1, help="Write a checkpoint of each task at this interval, in seconds.", rich_help_panel=LOCAL)
    ] = 60,
    tracking_uri: Annotated[
        str,
        typer.Option(
            help="Mirror to this MLflow tracking URI. Default: MLFLOW_TRACKING_URI (for a URI with a password), else an SQLite file."
        ),
    ] = "",
    tracking: Annotated[bool, typer.Option(help="Mirror metrics and records to MLflow during the run.")] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Print plain lines instead of the live view.")] = False,
    argo_server: Annotated[str, typer.Option(help="Run on the cluster of the Argo Server at this URL.", rich_help_panel=REMOTE)] = "",
    token: Annotated[
        str,
        typer.Option(
            envvar="ARGO_TOKEN",
            help="Authenticate with this bearer token. Other users can see arguments: prefer --token-file or ARGO_TOKEN.",
            rich_help_panel=REMOTE,
        ),
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="Read the bearer token from this file before every request.", rich_help_panel=REMOTE)
    ] = None,
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            envvar="ARGO_NAMESPACE",
            help="Create the Workflows in this namespace; required with --argo-server.",
            rich_help_panel=REMOTE,
        ),
    ] = "",
    ca_file: Annotated[
        Path | None, typer.Option(help="Verify the server with the CA certificate in this file.", rich_help_panel=REMOTE)
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure-skip-verify", help="Skip TLS certificate verification.", rich_help_panel=REMOTE)
    ] = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Print the logs of the pods; requires permission to read them.", rich_help_panel=REMOTE)
    ] = False,
) -> None:
    """Run a study on this machine, or on a cluster through an Argo Server, and write its report.

    Completed tasks are skipped and interrupted tasks resume from their checkpoints, so it is always safe to run the command again. The
    first Ctrl-C stops the tasks at a checkpoint, the second stops them immediately. Exits 1 if a cell is incomplete at the end, 75 if the
    run was stopped.

    With --argo-server, this process only manages the Workflows. They continue without it; to attach again, run the same command.
    """
    from orchestrator import api

    _reject_mixed_options(ctx)
    if argo_server:
        server = api.ArgoServer(argo_server, namespace, token, token_file, ca_file, insecure)
        remote = api.RemoteRunOptions(store=store, out=out, tracking=tracking, tracking_uri=tracking_uri, plain=plain, logs=logs)
        finish(api.run_remote(file, server, remote, resume=remote_command(file, server, remote)))
        return
    options = api.RunOptions(
        store=store, out=out, workers=workers, only=only or (), replan=replan, threads=threads, gpus=gpus,
        checkpoint_seconds=checkpoint_seconds, tracking=tracking, tracking_uri=tracking_uri, plain=plain,
    )  # fmt: skip
    if dry_run:
        show_preview(api.preview_run(file, options))
    else:
        finish(api.run(file, options, resume=shlex.join(local_command(sys.argv[1:]))))


def _reject_mixed_options(ctx: typer.Context) -> None:
    """Raise BadParameter if options of a local and of a remote run are combined, or the namespace is missing."""
    is_remote = bool(ctx.params["argo_server"])
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        panel = getattr(option, "rich_help_panel", None)
        if source is None or source.name != "COMMANDLINE" or panel not in (LOCAL, REMOTE):
            continue
        if is_remote and panel == LOCAL:
            raise typer.BadParameter(f"{option.opts[0]} is for a run on this machine and cannot be used with --argo-server", ctx)
        if not is_remote and panel == REMOTE:
            raise typer.BadParameter(f"{option.opts[0]} needs --argo-server URL", ctx)
    if is_remote and not ctx.params["namespace"]:
        raise typer.BadParameter("--argo-server needs --namespace NAME: the namespace of the Workflows", ctx)


def local_command(given: Sequence[str]) -> list[str]:
    """Return the command that resumes a local run: the arguments as given, without --replan and passwords.

    Every other option is kept, because threads and GPUs decide the last bits of results.
    """
    from orchestrator.tracking import masked

    return ["scaling-study", *(masked(word) for word in given if word != "--replan")]


def remote_command(file: Path, server: "ArgoServer", options: "RemoteRunOptions") -> str:
    """Return the command that attaches to a remote run again, without token and passwords."""
    from orchestrator.tracking import masked

    words = ["scaling-study", "run", str(file), "--argo-server", server.url, "-n", server.namespace]
    words += ["--token-file", str(server.token_file)] if server.token_file else []
    words += ["--ca-file", str(server.ca_file)] if server.ca_file else []
    words += ["--insecure-skip-verify"] if server.insecure else []
    words += ["--store", options.store] if options.store else []
    words += ["--out", str(options.out)] if options.out else []
    words += [] if options.tracking else ["--no-tracking"]
    words += ["--tracking-uri", masked(options.tracking_uri)] if options.tracking and options.tracking_uri else []
    words += ["--plain"] if options.plain else []
    return shlex.join(words + (["--logs"] if options.logs else []))


def show_preview(preview: "RunPreview") -> None:
    """Print the tasks that would run. Raises the error that the run would raise."""
    pending = preview.pending
    print(f"{preview.study}: {preview.tasks} tasks, {preview.done} done, {len(pending)} to run in {preview.store}")
    for planned in pending[:LISTED]:
        print(f"  {planned.kind:8} {planned.label} [{planned.digest[:12]}]")
    if len(pending) > LISTED:
        print(f"  ... and {len(pending) - LISTED} more")
    if preview.blocker is not None:
        raise preview.blocker


def finish(outcome: "RunOutcome") -> None:
    """Print the last lines of a run and exit: 0 if complete, 1 if cells are missing, 75 if it was stopped."""
    from orchestrator.contract.formatting import format_duration
    from orchestrator.monitor.progress import incomplete_cells

    result = outcome.result
    if outcome.plan is None:
        print(outcome.trouble or "The study had no plan yet.")
        raise typer.Exit(exits.FAILED if outcome.trouble else exits.STOPPED)
    if outcome.trouble:
        print(f"{len(result.done)} tasks done; the rest cannot run: {outcome.trouble}")
        raise typer.Exit(exits.FAILED)
    new = len(result.done) - result.skipped
    print(f"{len(result.done)} tasks done ({new} now, {result.skipped} before) in {format_duration(result.seconds)}")
    if result.was_stopped:
        raise typer.Exit(exits.STOPPED)
    if not result.is_complete:
        print(f"{len(result.failed)} tasks failed and block {len(result.held_back)} dependent tasks. Missing:")
        for hole in incomplete_cells(outcome.plan, result.failed, result.held_back):
            print(f"  {hole}")
        raise typer.Exit(exits.FAILED)
