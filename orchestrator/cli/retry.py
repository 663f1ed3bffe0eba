"""`scaling-study retry`: retry the permanently failed tasks of a study on a cluster."""

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StudyArgument, StudyOnCluster


def register(app: typer.Typer) -> None:
    app.command("retry")(retry)


def retry(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Retry permanently failed tasks. Completed and running tasks are unaffected.

    Fix the cause first. Increments the run number; failures are counted per run number, so the count starts from zero. Crashed or preempted
    tasks need no `retry`: they are retried automatically. On this machine, `run FILE` retries failed tasks.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as found:
        print(retry_study(found))


def retry_study(study: StudyOnCluster) -> str:
    """Increment the run number if a task has failed, and return a message. Raises NotFound, Refused."""
    from orchestrator.cluster.study_object import RUN_NUMBER, find_object, phase_of, retry_requested, status_of, verdict_of
    from orchestrator.contract.vocabulary import ANNOTATION_RETRY

    body = find_object(study.cluster, study.name)
    requested = retry_requested(body)
    has_invalid_number = bool(requested) and not RUN_NUMBER.fullmatch(requested)
    verdict = verdict_of(body)
    if verdict.state == "refused" and not has_invalid_number:
        return f"{study.name} was rejected, so none of its tasks has run. Fix the file and submit it again: {verdict.message}"
    status = status_of(body)
    failed = int((status.get("counts") or {}).get("tasksFailed", 0))
    if not failed and not has_invalid_number and phase_of(body) != "Failed":
        return f"no task of {study.name} has failed permanently ({phase_of(body) or 'not reconciled yet'}); there is nothing to retry."
    number = max(int(status.get("runNumber") or 1), int(requested) if requested and not has_invalid_number else 1) + 1
    study.cluster.patch("scalingstudies", study.name, {"metadata": {"annotations": {ANNOTATION_RETRY: str(number)}}})
    message = f"{study.name}: {failed} failed tasks are retried as run {number}."
    if body["spec"].get("paused"):
        return f"{message} The study is paused; to resume: {study.command('resume')}"
    return f"{message} To follow it: {study.command('watch')}"
