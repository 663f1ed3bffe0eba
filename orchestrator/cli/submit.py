"""`scaling-study submit FILE`: create or change a study on a cluster."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import ContextOption, FileArgument, NamespaceOption, StudyOnCluster, on_cluster

if TYPE_CHECKING:
    from orchestrator.cluster.port import Document
    from orchestrator.cluster.study_object import Verdict
    from orchestrator.cluster.submission import Submitted

# A running controller reconciles a new study within two seconds
SOON_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """How long to wait for the controller's verdict, in seconds. `until_planned`: wait until the plan is made or rejected."""

    seconds: float = SOON_SECONDS
    until_planned: bool = False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)


def submit(
    ctx: typer.Context,
    file: FileArgument,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the study is planned or rejected.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Wait at most this many seconds with --wait; an unreachable cluster is retried.")
    ] = 600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the study on the cluster without saving it.")] = False,
) -> None:
    """Submit a study to a cluster, or update an existing one to match the file.

    Checks the whole file before it sends anything; the cluster also rejects unknown fields. A change to any field except `paused`, `budget`
    and `execution` makes a new plan; completed tasks are never repeated. Exits 1 if the cluster or its policy rejects the study or --wait
    times out, 2 if the file is invalid.
    """
    values = load_for_cluster(file)
    with on_cluster(ctx, str(file), namespace, context) as study:
        waiting = WaitOptions(timeout if wait else SOON_SECONDS, wait)
        if not submit_study(study, values, waiting, print, dry_run=dry_run):
            raise typer.Exit(exits.FAILED)


def load_for_cluster(file: Path) -> "Document":
    """Return the content of a study file. Raises InvalidStudy, or PlanRefused for a study that cannot run on any cluster."""
    from orchestrator.errors import PlanRefused
    from orchestrator.reconcile.policy import violations_on_any_cluster
    from orchestrator.spec import read_study
    from orchestrator.spec.yaml_text import read_document

    broken = tuple(violations_on_any_cluster(read_study(file)))
    if broken:
        rules = "\n".join(f"{file}: {rule.message}" for rule in broken)
        raise PlanRefused(f"{rules}\n    Unchanged, it can run on this machine: scaling-study run {file}")
    values = read_document(file.read_bytes(), str(file))[0].values
    assert isinstance(values, dict)
    return values


def submit_study(
    study: StudyOnCluster, values: "Document", waiting: WaitOptions, say: Callable[[str], None], *, dry_run: bool = False
) -> bool:
    """Send the study and report the result; False if it was rejected. Raises Refused, NotFound, Conflict."""
    from orchestrator.cluster.submission import object_to_send
    from orchestrator.cluster.submission import submit as send

    submitted = send(study.cluster, object_to_send(values, study.cluster.namespace), dry_run=dry_run)
    say(describe(study, submitted, dry_run=dry_run))
    if dry_run:
        return True
    if submitted.body["spec"].get("paused"):
        say(f"The study is paused; to resume: {study.command('resume')}")
    return _report_verdict(study, waiting, say)


def describe(study: StudyOnCluster, submitted: "Submitted", *, dry_run: bool) -> str:
    """Return a message such as `to-code: changed in namespace studies (spec.grid.seeds); a new plan is made`."""
    from orchestrator.spec.messages import escaped
    from orchestrator.store.plans import NOT_PLANNED

    what = f"would be {submitted.outcome}" if dry_run else submitted.outcome
    line = f"{study.name}: {what} in namespace {study.cluster.namespace}"
    if submitted.changes:
        line += f" ({escaped(', '.join(submitted.changes))})"
        paths = [path.split(".") for path in submitted.changes]
        if any(path[0] == "spec" and path[1] not in NOT_PLANNED for path in paths):
            line += "; a new plan is made, and completed tasks are kept"
    return line + (". Nothing was saved." if dry_run else ".")


def _report_verdict(study: StudyOnCluster, waiting: WaitOptions, say: Callable[[str], None]) -> bool:
    verdict = await_verdict(study, waiting, say)
    if verdict.state == "refused":
        say(f"rejected: {verdict.message}")
        return False
    if verdict.state == "planned":
        say(f"accepted and planned: {verdict.message}. To follow it: {study.command('watch')}")
        return True
    if verdict.state == "planning":
        say(f"accepted; before planning, {verdict.message}. To follow it: {study.command('watch')}")
    else:
        say(
            f"no controller has reconciled it yet. To see its state: {study.command('status')}\n"
            f"    If that persists, check the controller: kubectl -n {study.cluster.namespace} get deployment scaling-study-controller"
        )
    return not waiting.until_planned


def await_verdict(study: StudyOnCluster, waiting: WaitOptions, say: Callable[[str], None]) -> "Verdict":
    """Return the controller's verdict on the newest version: its first verdict, or with `until_planned` its final one.

    Retries an unreachable cluster until the timeout. Raises ClusterError.
    """
    from orchestrator.cluster.study_object import find_object, verdict_of
    from orchestrator.errors import ClusterError

    end, trouble = waiting.clock() + waiting.seconds, ""
    while True:
        try:
            verdict = verdict_of(find_object(study.cluster, study.name))
            is_final = verdict.state in ("planned", "refused") or (verdict.state == "planning" and not waiting.until_planned)
            if is_final or waiting.clock() >= end:
                return verdict
        except ClusterError as problem:
            left = end - waiting.clock()
            if not problem.retryable or left <= 0:
                raise
            if str(problem) != trouble:
                trouble = str(problem)
                say(f"{trouble}; retrying for {left:.0f} s")
        waiting.sleep(0.5)
