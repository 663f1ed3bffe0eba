"""Argo 4's schema as an oracle: hera's models are generated from it, and what they do not know they drop.

The cluster of the tests runs Argo 3.7; what is rendered must be valid for its successor too.
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
# Every key that `execution` and its parts have
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
# What the namespace's policy may add to every pod
DEFAULTS: Document = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "podPriorityClassName": "low"}
SETTINGS = {
    "little": PodSettings("team", "x", "", "s3://x", 1, Execution()),
    "everything": PodSettings(
        "team", "x", "0c3f", "s3://x", 7, EVERYTHING, {"a" * 64: ["s3://c/web"]}, environment={"HF_HUB_OFFLINE": "1"}
    ),
}
SETTINGS["policy"] = replace(SETTINGS["little"], defaults=DEFAULTS)


@cache
def rendered(asked: str) -> tuple[Document, ...]:
    """One Workflow of every kind: what a study's units do, and what looks at its files."""
    settings = SETTINGS[asked]
    plan = plan_study(study(["0.09M"], [50], [1], stages=2), {})
    files = {"web": "s3://c/web", "stack": "s3://c/stack"}
    looks = fingerprint_workflow("ss-files-0", "fingerprints/0.json", files, "s3://c/tokenizer.json", "trainer:1", settings)
    return (*(build_workflow(unit, plan, settings) for unit in units(plan)), looks)


@pytest.mark.parametrize("asked", SETTINGS)
def test_a_round_trip_through_argo_4_drops_and_changes_nothing(asked: str) -> None:
    for workflow in rendered(asked):
        assert through_argo_4(workflow) == workflow


@pytest.mark.parametrize("asked", SETTINGS)
def test_every_kind_of_work_takes_the_round_trip(asked: str) -> None:
    templates = Counter(template["name"] for workflow in rendered(asked) for template in workflow["spec"]["templates"])
    assert templates.keys() == {"unit", "fingerprint", *TaskKind}


def test_the_round_trip_asks_everything_that_a_study_file_can_ask() -> None:
    """A key that `execution` gets later must be asked here too."""
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
def test_the_oracle_sees_a_field_that_argo_4_does_not_have(change: Any) -> None:
    """Otherwise a round trip would show nothing."""
    settings = SETTINGS["everything"]
    plan = plan_study(study(["0.09M"], [50], [1]), {})
    workflow = build_workflow(units(plan)[-1], plan, settings)
    change(workflow)
    assert through_argo_4(workflow) != workflow


def through_argo_4(workflow: Document) -> Document:
    """What is left of it after it was read and written by models of Argo 4's schema."""
    found: Document = Workflow.model_validate(workflow).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return found
