"""`scaling-study stop`: pause a study on a cluster at its checkpoints."""

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StudyArgument, StudyOnCluster

# Refused is not in the list: after an edit of the study or the policy, tasks of a rejected study may still run
NOTHING_RUNS = ("Succeeded", "Failed")


def register(app: typer.Typer) -> None:
    app.command("stop")(stop)


def stop(ctx: typer.Context, study: StudyArgument, namespace: NamespaceOption = "", context: ContextOption = "") -> None:
    """Pause a study on a cluster: running tasks write a checkpoint and release their GPUs. To resume it, use `resume`.

    Sets `spec.paused: true`, which you can also set in the study file or with kubectl. To stop a run on this machine, press Ctrl-C in its
    terminal.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as found:
        print(stop_study(found))


def stop_study(study: StudyOnCluster) -> str:
    """Set `spec.paused` and return a message. Raises NotFound, Refused."""
    from orchestrator.cluster.study_object import find_object, phase_of

    body = find_object(study.cluster, study.name)
    how_to_resume = f"To resume: {study.command('resume')}"
    if body["spec"].get("paused"):
        return f"{study.name} is already paused ({phase_of(body) or 'not reconciled yet'}). {how_to_resume}"
    if phase_of(body) in NOTHING_RUNS:
        return f"{study.name} has ended ({phase_of(body)}): no task is running."
    study.cluster.patch("scalingstudies", study.name, {"spec": {"paused": True}})
    return (
        f"{study.name} is stopping: its tasks finish the current step, write a checkpoint and exit; no new tasks start.\n"
        f"To see its state: {study.command('status')}\n{how_to_resume}"
    )
