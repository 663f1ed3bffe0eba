"""Validate rendered Workflows against Argo 4's schema, with hera's models, which are generated from it and drop unknown fields.

The test cluster runs Argo 3.7; rendered Workflows must also be valid for its successor.
"""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hera.workflows.models import Workflow

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning import plan_study
from orchestrator.spec import Execution
from orchestrator.spec.execution import Resources, ResourcesByKind, Toleration
from orchestrator.workflow import PodSettings, build_workflow, fingerprint_workflow, units
from tests.workflow.test_workflow import study

Document = dict[str, Any]

RESOURCES = {"cpu": "3.5", "memory": "64Gi"}
# Sets every key of `execution` and its parts
EVERYTHING = Execution.model_validate(
    {
        "image": "registry.example.com/trainer@sha256:" + "0" * 64,
        "gpusPerPod": {"0.09M": 8},
        "nodes": {"0.09M": 2},
        "resources": {"prepare": RESOURCES, "train": RESOURCES, "evaluate": RESOURCES},
        "microBatch": 4,
        "queue": "research",
        "priorityClass": "batch",
        "serviceAccount": "team",
        "pullSecrets": ["registry"],
        "storeSecret": "store",
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        "graceSeconds": 600,
    }
)
# The fields that a namespace's policy may add to every pod
DEFAULTS: Document = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "podPriorityClassName": "low"}
SETTINGS = {
    "minimal": PodSettings("team", "x", "", "s3://x", 1, Execution()),
    "everything": PodSettings(
        "team", "x", "0c3f", "s3://x", 7, EVERYTHING, {"a" * 64: ["s3://c/web"]}, environment={"HF_HUB_OFFLINE": "1"}
    ),
}
SETTINGS["policy"] = replace(SETTINGS["minimal"], defaults=DEFAULTS)


@cache
def rendered(settings_name: str) -> tuple[Document, ...]:
    """Render the Workflows of a study's units and the one that fingerprints its files."""
    settings = SETTINGS[settings_name]
    plan = plan_study(study(["0.09M"], [50], [1], stages=2), {})
    files = {"web": "s3://c/web", "stack": "s3://c/stack"}
    fingerprinting = fingerprint_workflow("ss-files-0", "fingerprints/0.json", files, "s3://c/tokenizer.json", "trainer:1", settings)
    return (*(build_workflow(unit, plan, settings) for unit in units(plan)), fingerprinting)


@pytest.mark.parametrize("settings_name", SETTINGS)
def test_round_trip_through_argo_4_models_is_lossless(settings_name: str) -> None:
    for workflow in rendered(settings_name):
        assert through_argo_4(workflow) == workflow


@pytest.mark.parametrize("settings_name", SETTINGS)
def test_round_trip_covers_every_task_kind(settings_name: str) -> None:
    templates = Counter(template["name"] for workflow in rendered(settings_name) for template in workflow["spec"]["templates"])
    assert templates.keys() == {"unit", "fingerprint", *TaskKind}


def test_round_trip_covers_every_execution_key() -> None:
    """Keys added to `execution` later must be added to EVERYTHING."""
    assert EVERYTHING.model_fields_set == Execution.model_fields.keys()
    assert EVERYTHING.resources.model_fields_set == ResourcesByKind.model_fields.keys()
    assert EVERYTHING.resources.train.model_fields_set == Resources.model_fields.keys()
    assert EVERYTHING.tolerations[0].model_fields_set == Toleration.model_fields.keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["spec"].update(failFast=False),
        lambda body: body["spec"]["templates"][0]["dag"]["tasks"][0].update(needs=["other"]),
        lambda body: body["spec"]["templates"][1]["container"]["securityContext"].update(readOnlyRootFileSystem=True),
        lambda body: body["spec"]["templates"][1]["retryStrategy"].update(maximum="3"),
        lambda body: body["spec"]["podGC"].update(deleteDelaySeconds=60),
    ],
    ids=["spec", "dag", "container", "retry", "podGC"],
)
def test_round_trip_detects_unknown_fields(change: Any) -> None:
    settings = SETTINGS["everything"]
    plan = plan_study(study(["0.09M"], [50], [1]), {})
    workflow = build_workflow(units(plan)[-1], plan, settings)
    change(workflow)
    assert through_argo_4(workflow) != workflow


def through_argo_4(workflow: Document) -> Document:
    """Return the Workflow after parsing and serializing it with models of Argo 4's schema."""
    found: Document = Workflow.model_validate(workflow).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return found
