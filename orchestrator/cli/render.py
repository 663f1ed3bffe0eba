"""`scaling-study render FILE`: the Argo Workflows that a cluster would be given, as YAML, without a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("render")(render)


def render(
    file: Annotated[Path, typer.Argument(help="The study file.")],
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the Workflows.")] = "default",
    run_number: Annotated[int, typer.Option(min=1, help="Number of the run: part of every name.")] = 1,
    waiter_image: Annotated[str, typer.Option(help="Image of pods that wait for training over several nodes.")] = "controller",
    out: Annotated[Path | None, typer.Option(help="A folder: one file a Workflow. All on standard output unless given.")] = None,
) -> None:
    """Write the Workflows of a study, in an order in which none needs a later one.

    The same study gives the same bytes. The controller submits each when what it needs is done; applied by hand all at once, they would
    not wait for each other.
    """
    from orchestrator.cli.outputs import writing
    from orchestrator.study.opening import inputs, preview_study
    from orchestrator.workflow import PodSettings, build_workflow, units
    from orchestrator.workflow.text import to_yaml

    opened = preview_study(file, store)
    settings = PodSettings(
        namespace=namespace,
        study=opened.study.name,
        study_uid="",
        store=opened.store.url,
        run_number=run_number,
        execution=opened.study.spec.execution,
        inputs=inputs(opened.study, opened.plan),
        waiter_image=waiter_image,
    )
    workflows = (build_workflow(unit, opened.plan, settings) for unit in units(opened.plan))
    if out is None:
        for workflow in workflows:
            sys.stdout.write(f"---\n{to_yaml(workflow)}")
        return
    with writing(out, "a folder with --out; one that is not there is made"):
        out.mkdir(parents=True, exist_ok=True)
        for workflow in workflows:
            (out / f"{workflow['metadata']['name']}.yaml").write_text(to_yaml(workflow))
