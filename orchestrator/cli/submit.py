"""`scaling-study submit FILE`: a study file becomes, or changes, a study on a cluster."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli.connect import At, ContextOption, NamespaceOption

if TYPE_CHECKING:
    from orchestrator.cluster.port import Document
    from orchestrator.cluster.study_object import Verdict
    from orchestrator.cluster.submission import Submitted

# A controller that runs looks at a new study within two seconds
SOON_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what the controller says. `sleep` and `clock` in seconds."""

    seconds: float = SOON_SECONDS
    until_planned: bool = False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def register(app: typer.Typer) -> None:
    app.command("submit")(submit)


def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The study file.")],
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until the study is planned and begins, or is refused.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that --wait waits, also for a cluster that is away.")] = 600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the cluster check everything, and keep nothing.")] = False,
) -> None:
    """Submit a study to a cluster, or change the one that is there to what the file says.

    Every mistake of the file is told before anything is sent; unknown fields are mistakes for the cluster too. A change plans the study
    anew only where it changes more than `paused`, `budget` or `execution`, and never does again what is done. Exits 1 when the cluster or
    its policy refuses the study, 2 when the file has mistakes.
    """
    from orchestrator.cli.connect import connected, name_of, namespace_of, program_of
    from orchestrator.cluster.study_object import clear_words

    values = read_whole(file)
    cluster = connected(namespace_of(name_of(str(file)), namespace), context)
    with clear_words(cluster.namespace):
        at = At(cluster, values["metadata"]["name"], program_of(ctx), context)
        patience = Patience(timeout if wait else SOON_SECONDS, wait)
        if not submit_study(at, values, patience, print, dry_run=dry_run):
            raise typer.Exit(1)


def read_whole(file: Path) -> "Document":
    """All that the file says. Raises StudyMistakes, PlanRefused for what no cluster can run."""
    from orchestrator.errors import PlanRefused
    from orchestrator.reconcile.policy import Policy, broken_rules
    from orchestrator.spec import read_study
    from orchestrator.spec.yaml_text import read_document

    broken = broken_rules(read_study(file), Policy())
    if broken:
        told = "\n".join(f"{file}: {rule.message}" for rule in broken)
        raise PlanRefused(f"{told}\n    As it stands it can run on this machine: scaling-study run {file}")
    values = read_document(file.read_bytes(), str(file))[0].values
    assert isinstance(values, dict)
    return values


def submit_study(at: At, values: "Document", patience: Patience, say: Callable[[str], None], *, dry_run: bool = False) -> bool:
    """Sends it and says what came of it; False when it was refused. Raises Refused, NotThere, Conflict."""
    from orchestrator.cluster.submission import object_to_send
    from orchestrator.cluster.submission import submit as send

    submitted = send(at.cluster, object_to_send(values, at.cluster.namespace), dry_run=dry_run)
    say(told(at, submitted, dry_run=dry_run))
    if dry_run:
        return True
    if submitted.body["spec"].get("paused"):
        say(f"It is stopped; to let it go on: {at.line('resume')}")
    return _verdict(at, patience, say)


def told(at: At, submitted: "Submitted", *, dry_run: bool) -> str:
    """`to-code: changed in namespace studies (spec.grid.seeds); it is planned anew`."""
    from orchestrator.store.plans import NOT_PLANNED

    how = f"would be {submitted.what}" if dry_run else submitted.what
    line = f"{at.name}: {how} in namespace {at.cluster.namespace}"
    if submitted.changes:
        line += f" ({', '.join(submitted.changes)})"
        paths = [path.split(".") for path in submitted.changes]
        if any(path[0] == "spec" and path[1] not in NOT_PLANNED for path in paths):
            line += "; it is planned anew, and what is done stays"
    return line + (". Nothing was sent to stay." if dry_run else ".")


def _verdict(at: At, patience: Patience, say: Callable[[str], None]) -> bool:
    verdict = await_verdict(at, patience, say)
    if verdict.word == "refused":
        say(f"refused: {verdict.message}")
        return False
    if verdict.word == "planned":
        say(f"accepted and planned: {verdict.message}. To see it run: {at.line('watch')}")
        return True
    if verdict.word == "planning":
        say(f"accepted; before it is planned, {verdict.message}. To see it: {at.line('watch')}")
    else:
        say(
            f"no controller has looked at it yet. To see what becomes of it: {at.line('status')}\n"
            f"    If that stays so: kubectl -n {at.cluster.namespace} get deployment scaling-study-controller"
        )
    return not patience.until_planned


def await_verdict(at: At, patience: Patience, say: Callable[[str], None]) -> "Verdict":
    """What the controller says of the newest version, as soon as it is final or, unless --wait, at least something.

    A cluster that is away is asked again until the patience ends. Raises ClusterError.
    """
    from orchestrator.cluster.study_object import find_object, verdict_of
    from orchestrator.errors import ClusterError

    end, trouble = patience.clock() + patience.seconds, ""
    while True:
        try:
            verdict = verdict_of(find_object(at.cluster, at.name))
            is_final = verdict.word in ("planned", "refused") or (verdict.word == "planning" and not patience.until_planned)
            if is_final or patience.clock() >= end:
                return verdict
        except ClusterError as problem:
            left = end - patience.clock()
            if not problem.retryable or left <= 0:
                raise
            if str(problem) != trouble:
                trouble = str(problem)
                say(f"{trouble}; it is asked again for {left:.0f} s")
        patience.sleep(0.5)
