"""`scaling-study delete`: a study and all that it runs on a cluster go; its store stays."""

from typing import Annotated

import typer

from orchestrator.cli.connect import At, ContextOption, NamespaceOption, StudyArgument


def register(app: typer.Typer) -> None:
    app.command("delete")(delete)


def delete(
    ctx: typer.Context,
    study: StudyArgument,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a study from a cluster, with its Workflows and pods. Its store, and all that is done, stays.

    Running tasks get their grace period to write a checkpoint: submitted again, the study goes on from there.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as at:
        print(what_goes(at))
        if not yes and not _confirmed():
            print("Nothing was deleted.")
            raise typer.Exit(1)
        print(delete_study(at))


def _confirmed() -> bool:
    """Nobody there to answer counts as no."""
    import sys

    if not sys.stdin.isatty():
        print("Nobody is there to be asked; --yes deletes without asking.")
        return False
    return typer.confirm("Delete it?")


def what_goes(at: At) -> str:
    """What would go and what stays. Raises NotThere."""
    from orchestrator.cluster.study_object import find_object, phase_of, status_of
    from orchestrator.contract.vocabulary import LABEL_STUDY

    body = find_object(at.cluster, at.name)
    pods = sum((pod.get("status") or {}).get("phase") == "Running" for pod in at.cluster.list("pods", {LABEL_STUDY: at.name}).items)
    cells = status_of(body).get("cellsDone") or "no"
    return (
        f"{at.name} in namespace {at.cluster.namespace}: {phase_of(body) or 'not seen yet'}, {cells} cells done, {pods} pods running."
        f" They go; {body['spec'].get('store', 'the store')} stays."
    )


def delete_study(at: At) -> str:
    """Deletes the object; what it owns goes with it. What to tell."""
    at.cluster.delete("scalingstudies", at.name)
    return f"{at.name} is deleted; its pods end within their grace period."
