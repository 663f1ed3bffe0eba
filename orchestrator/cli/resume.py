"""`scaling-study resume`: a study on a cluster goes on where `stop` left it."""

import typer

from orchestrator.cli.connect import At, ContextOption, NamespaceOption, StudyArgument


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)


def resume(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Let a stopped study go on, from its checkpoints: takes `spec.paused` away. What has failed is tried again by `retry`."""
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as at:
        print(resume_study(at))


def resume_study(at: At) -> str:
    """Takes the pause away; what to tell. Raises NotThere, Refused."""
    from orchestrator.cluster.study_object import find_object, phase_of

    body = find_object(at.cluster, at.name)
    if not body["spec"].get("paused"):
        return f"{at.name} is not stopped ({phase_of(body) or 'not seen yet'})."
    at.cluster.patch("scalingstudies", at.name, {"spec": {"paused": None}})
    return f"{at.name} goes on from its checkpoints. To see it: {at.line('watch')}"
