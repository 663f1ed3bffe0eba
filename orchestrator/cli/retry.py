"""`scaling-study retry`: what of a study on a cluster has failed for good is tried again."""

import typer

from orchestrator.cli.connect import At, ContextOption, NamespaceOption, StudyArgument


def register(app: typer.Typer) -> None:
    app.command("retry")(retry)


def retry(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Try again what has failed for good, after its cause is mended. What is done stays, what runs runs on.

    Begins a new run number, in which failures are counted from nothing. Tasks that merely crashed or were preempted need no `retry`: they
    are tried again by themselves. On this machine `run FILE` again does the same.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as at:
        print(retry_study(at))


def retry_study(at: At) -> str:
    """Raises the run number where something has failed; what to tell. Raises NotThere, Refused."""
    from orchestrator.cluster.study_object import find_object, phase_of, status_of, verdict_of
    from orchestrator.contract.vocabulary import ANNOTATION_RETRY

    body = find_object(at.cluster, at.name)
    verdict = verdict_of(body)
    if verdict.word == "refused":
        return f"{at.name} was refused, so nothing of it has run. Mend the file and submit it again: {verdict.message}"
    status = status_of(body)
    failed = int((status.get("counts") or {}).get("tasksFailed", 0))
    if not failed and phase_of(body) != "Failed":
        return f"nothing of {at.name} has failed for good ({phase_of(body) or 'not seen yet'}); there is nothing to try again."
    asked = str((body["metadata"].get("annotations") or {}).get(ANNOTATION_RETRY, ""))
    number = max(int(status.get("runNumber") or 1), int(asked) if asked.isdecimal() else 1) + 1
    at.cluster.patch("scalingstudies", at.name, {"metadata": {"annotations": {ANNOTATION_RETRY: str(number)}}})
    told = f"{at.name}: what has failed ({failed} tasks) is tried again, as run {number}."
    if body["spec"].get("paused"):
        return f"{told} It is stopped, though; to let it go on: {at.line('resume')}"
    return f"{told} To see it: {at.line('watch')}"
