"""`scaling-study resume`: resume a paused study on a cluster."""

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StudyArgument, StudyOnCluster


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)


def resume(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Resume a paused study from its checkpoints (clears `spec.paused`). To retry failed tasks, use `retry`."""
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as found:
        print(resume_study(found))


def resume_study(study: StudyOnCluster) -> str:
    """Clear `spec.paused` and return a message. Raises NotFound, Refused."""
    from orchestrator.cluster.study_object import find_object, phase_of

    body = find_object(study.cluster, study.name)
    if not body["spec"].get("paused"):
        return f"{study.name} is not paused ({phase_of(body) or 'not reconciled yet'})."
    study.cluster.patch("scalingstudies", study.name, {"spec": {"paused": None}})
    return f"{study.name} resumes from its checkpoints. To follow it: {study.command('watch')}"
