"""`scaling-study stop`: a study on a cluster pauses politely."""

import typer

from orchestrator.cli.connect import At, ContextOption, NamespaceOption, StudyArgument

# What a study had begun before it was refused, after an edit of it or of the policy, may still run
NOTHING_RUNS = ("Succeeded", "Failed")


def register(app: typer.Typer) -> None:
    app.command("stop")(stop)


def stop(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Stop a study on a cluster: running tasks write a checkpoint and give their GPUs back. `resume` goes on from there.

    Sets `spec.paused: true`, which a study file or kubectl can do as well. A run on this machine is stopped with Ctrl-C where it runs.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as at:
        print(stop_study(at))


def stop_study(at: At) -> str:
    """Pauses it; what to tell. Raises NotThere, Refused."""
    from orchestrator.cluster.study_object import find_object, phase_of

    body = find_object(at.cluster, at.name)
    again = f"To go on: {at.line('resume')}"
    if body["spec"].get("paused"):
        return f"{at.name} is stopped already ({phase_of(body) or 'not seen yet'}). {again}"
    if phase_of(body) in NOTHING_RUNS:
        return f"{at.name} is over ({phase_of(body)}): nothing of it runs."
    at.cluster.patch("scalingstudies", at.name, {"spec": {"paused": True}})
    return (
        f"{at.name} stops: its tasks finish the step, write a checkpoint and end; nothing new begins.\n"
        f"To see it stop: {at.line('status')}\n{again}"
    )
