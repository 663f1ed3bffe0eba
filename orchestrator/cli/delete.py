"""`scaling-study delete`: delete a study from a cluster, with everything it runs; its store is kept."""

from typing import Annotated

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import ContextOption, NamespaceOption, StudyArgument, StudyOnCluster


def register(app: typer.Typer) -> None:
    app.command("delete")(delete)


def delete(
    ctx: typer.Context,
    study: StudyArgument,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking for confirmation.")] = False,
) -> None:
    """Delete a study from a cluster, with its Workflows and pods. Its store and all results are kept.

    Running tasks have their grace period to write a checkpoint. A study that is submitted again resumes from its checkpoints.
    """
    from orchestrator.cli.connect import on_cluster

    with on_cluster(ctx, study, namespace, context) as found:
        print(describe_deletion(found))
        if not yes and not _confirmed():
            print("Nothing was deleted.")
            raise typer.Exit(exits.FAILED)
        print(delete_study(found))


def _confirmed() -> bool:
    """Ask the user; False if standard input is not a terminal."""
    import sys

    if not sys.stdin.isatty():
        print("Standard input is not a terminal, so there is no confirmation; --yes deletes without asking.")
        return False
    return typer.confirm("Delete it?")


def describe_deletion(study: StudyOnCluster) -> str:
    """Return a message about what would be deleted and what is kept. Raises NotFound."""
    from orchestrator.cluster.study_object import find_object, phase_of, status_of
    from orchestrator.contract.vocabulary import LABEL_STUDY

    body = find_object(study.cluster, study.name)
    pods = study.cluster.list("pods", {LABEL_STUDY: study.name}).items
    running = sum((pod.get("status") or {}).get("phase") == "Running" for pod in pods)
    cells = status_of(body).get("cellsDone") or "no"
    return (
        f"{study.name} in namespace {study.cluster.namespace}: {phase_of(body) or 'not reconciled yet'}, {cells} cells done,"
        f" {running} pods running. The study and its pods are deleted; {body['spec'].get('store', 'the store')} is kept."
    )


def delete_study(study: StudyOnCluster) -> str:
    """Delete the object, and with it everything it owns; return a message."""
    study.cluster.delete("scalingstudies", study.name)
    return f"{study.name} is deleted; its pods end within their grace period."
