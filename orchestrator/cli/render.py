"""`scaling-study render FILE`: write a study's Argo Workflows as YAML, without a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.connect import FileArgument, StoreOption


def register(app: typer.Typer) -> None:
    app.command("render")(render)


def render(
    file: FileArgument,
    store: StoreOption = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Set the namespace of the Workflows.")] = "default",
    run_number: Annotated[int, typer.Option(min=1, help="Use this run number; it changes the name of every Workflow.")] = 1,
    waiter_image: Annotated[str, typer.Option(help="Use this image for pods that wait for multi-node training.")] = "controller",
    out: Annotated[
        Path | None, typer.Option(help="Write one file per Workflow to this folder. Default: print all to standard output.")
    ] = None,
) -> None:
    """Render the study's Argo Workflows as YAML, in dependency order, without a cluster.

    The same study always renders to the same bytes. On a cluster, the controller submits each Workflow when the tasks that it needs are
    done; Workflows that you apply with kubectl do not wait for each other.
    """
    from orchestrator.cli.outputs import writing
    from orchestrator.study.opening import paths_by_fingerprint, preview_study
    from orchestrator.workflow import PodSettings, build_workflow, units
    from orchestrator.workflow.yaml_writer import to_yaml

    opened = preview_study(file, store)
    settings = PodSettings(
        namespace=namespace,
        study=opened.study.name,
        study_uid="",
        store=opened.store.url,
        run_number=run_number,
        execution=opened.study.spec.execution,
        inputs=paths_by_fingerprint(opened.study, opened.plan),
        waiter_image=waiter_image,
    )
    workflows = (build_workflow(unit, opened.plan, settings) for unit in units(opened.plan))
    if out is None:
        for workflow in workflows:
            sys.stdout.write(f"---\n{to_yaml(workflow)}")
        return
    with writing(out, "a folder with --out; it is created if it does not exist"):
        out.mkdir(parents=True, exist_ok=True)
        for workflow in workflows:
            (out / f"{workflow['metadata']['name']}.yaml").write_text(to_yaml(workflow))
