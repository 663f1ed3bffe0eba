"""Rendered Workflows: golden bytes, size limits for large grids, and reproducibility."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.vocabulary import ANNOTATION_TASKS, LABEL_QUEUE
from orchestrator.planning import plan_study
from orchestrator.spec import Execution, Study, StudySpec
from orchestrator.workflow import PodSettings, build_workflow, units, workflow_name
from orchestrator.workflow.yaml_writer import to_yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "workflows.yaml"
EXECUTION: dict[str, Any] = {
    "image": "registry.example.com/trainer@sha256:" + "0" * 64,
    "gpusPerPod": {"0.09M": 2},
    "queue": "research",
    "storeSecret": "store",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "priorityClass": "low",
    "graceSeconds": 90,
    "resources": {"train": {"cpu": "3.5", "memory": "64Gi"}, "evaluate": {"memory": "8Gi"}, "prepare": {"cpu": 2}},
}


def study(sizes: list[str], percents: list[int], seeds: list[int], stages: int = 1, tokens: str = "400K") -> Study:
    mixture = {"codePercent": "grid", "code": {"stack": 100}, "text": {"web": 100}}
    later = [{"name": f"more-{index}", "kind": "continue", "tokens": "100K", "mixture": mixture} for index in range(stages - 1)]
    document = {
        "store": "s3://studies/x",
        "grid": {"sizes": sizes, "codePercent": percents, "seeds": seeds},
        "data": {
            "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
            "sources": [
                {"name": "web", "group": "text", "path": "s3://c/web", "fingerprint": "a" * 64},
                {"name": "stack", "group": "code", "path": "s3://c/stack", "fingerprint": "b" * 64},
            ],
        },
        "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": 512}},
        "recipes": [{"name": "scratch", "stages": [{"name": "pretrain", "tokens": tokens, "mixture": mixture}, *later]}],
        "evaluation": {"after": ["pretrain"], "suites": ["bpb", "continuation"]},
        "execution": EXECUTION,
    }
    return Study("x", StudySpec.model_validate(document), "x.yaml", document)


def built(made: Study) -> list[dict[str, Any]]:
    plan = plan_study(made, {})
    inputs = {source.fingerprint: [source.path] for source in plan.sources}
    settings = PodSettings("team", made.name, "uid-1", made.spec.store, 3, made.spec.execution, inputs)
    return [build_workflow(unit, plan, settings) for unit in units(plan)]


def test_workflows_have_golden_bytes() -> None:
    text = "".join(f"---\n{to_yaml(workflow)}" for workflow in built(study(["0.09M"], [50], [1])))
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "GOLDEN=write rewrites the golden files"


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from(["0.01M", "0.03M", "0.09M", "0.25M"]), min_size=1, unique=True),
    percents=st.lists(st.integers(0, 100), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    stages=st.integers(1, 4),
)
def test_every_task_is_in_exactly_one_valid_workflow(sizes: list[str], percents: list[int], seeds: list[int], stages: int) -> None:
    made = study(sizes, percents, seeds, stages)
    workflows = built(made)
    tasks = [digest for workflow in workflows for digest in json.loads(workflow["metadata"]["annotations"][ANNOTATION_TASKS])]
    assert sorted(tasks) == sorted(plan_study(made, {}).tasks)
    assert workflows == built(made)
    for workflow in workflows:
        check(workflow)


def check(workflow: dict[str, Any]) -> None:
    """Assert the limits of Argo 4 and of Kubernetes."""
    metadata, spec = workflow["metadata"], workflow["spec"]
    assert len(json.dumps(workflow)) < 256 * 1024
    assert len(spec["templates"]) <= 200
    names = [task["name"] for task in spec["templates"][0]["dag"]["tasks"]]
    assert len(names) <= 200
    assert len(set(names)) == len(names)
    for name in (metadata["name"], *names):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    for template in spec["templates"]:
        for labels in (metadata["labels"], (template.get("metadata") or {}).get("labels", {})):
            assert all(len(value) <= 63 for value in labels.values())
    for task in spec["templates"][0]["dag"]["tasks"]:
        assert set(task.get("dependencies", ())) <= set(names)


def test_ten_thousand_cells_stay_within_bounds() -> None:
    made = study(["0.01M", "0.03M", "0.09M", "0.25M"], list(range(0, 100, 4)), list(range(100)))
    plan = plan_study(made, {})
    assert len(plan.cells) == 10_000
    parts = units(plan)
    assert sum(len(unit.tasks) for unit in parts) == len(plan.tasks) == len({digest for unit in parts for digest in unit.tasks})
    assert len({workflow_name(unit, 1) for unit in parts}) == len(parts)


def container(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in workflow["spec"]["templates"] if entry["name"] == kind)
    return found


def test_training_and_evaluation_request_gpus_and_only_training_is_queued() -> None:
    workflows = built(study(["0.09M"], [50], [1]))
    prepare = container(workflows[0], "prepare")
    assert "nvidia.com/gpu" not in json.dumps(prepare)
    assert LABEL_QUEUE not in json.dumps(prepare)
    leaf = next(workflow for workflow in workflows if any(entry["name"] == "evaluate" for entry in workflow["spec"]["templates"]))
    train, evaluate = container(leaf, "train"), container(leaf, "evaluate")
    assert train["metadata"]["labels"][LABEL_QUEUE] == "research"
    assert train["metadata"]["annotations"] == {
        "kueue.x-k8s.io/pod-group-total-count": "1",
        "kueue.x-k8s.io/retriable-in-group": "false",
    }
    assert "{{retries}}" in train["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"], "every attempt is a pod group of its own"
    assert LABEL_QUEUE not in json.dumps(evaluate)
    for template, gpus in ((train, "2"), (evaluate, "1")):
        resources = template["container"]["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == gpus


def test_containers_have_no_token_and_least_privileges() -> None:
    for workflow in built(study(["0.09M"], [50], [1])):
        spec = workflow["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["executor"]["serviceAccountName"] != spec["serviceAccountName"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for template in spec["templates"][1:]:
            rights = template["container"]["securityContext"]
            assert rights == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def test_execution_settings_are_passed_to_the_trainer_as_flags() -> None:
    workflow = built(study(["0.09M"], [50], [1]))[-1]
    words = container(workflow, "train")["container"]["args"]
    assert words[0] == "{{inputs.parameters.digest}}"
    assert {"--store=s3://studies/x", "--study=x", "--run-number=3", "--gpus=2"} <= set(words)
    tokenizer = container(built(study(["0.09M"], [50], [1]))[0], "prepare")["container"]["args"]
    assert {f"--input={'a' * 64}=s3://c/web", f"--input={'b' * 64}=s3://c/stack"} <= set(tokenizer)


def train_of(size: str, **execution: Any) -> dict[str, Any]:
    made = study([size], [50], [1], tokens="100M")
    settings = PodSettings("team", "x", "uid-1", "s3://studies/x", 3, Execution.model_validate({"image": "i:1", **execution}))
    plan = plan_study(made, {})
    (unit,) = (unit for unit in units(plan) if unit.kind == "train")
    found: dict[str, Any] = next(entry for entry in build_workflow(unit, plan, settings)["spec"]["templates"] if entry["name"] == "train")
    return found


@pytest.mark.parametrize(("size", "given", "seconds"), [("0.09M", {}, 120), ("2.8B", {}, 400), ("2.8B", {"graceSeconds": 99}, 99)])
def test_grace_period_allows_a_checkpoint(size: str, given: dict[str, int], seconds: int) -> None:
    found = json.loads(train_of(size, **given)["podSpecPatch"])["terminationGracePeriodSeconds"]
    assert found == pytest.approx(seconds, rel=0.1)


def test_shards_claim_is_mounted_and_passed_to_the_trainer() -> None:
    made = study(["0.09M"], [50], [1])
    plan = plan_study(made, {})
    settings = PodSettings("team", "x", "uid-1", "s3://studies/x", 3, made.spec.execution, shards_claim="shards")
    spec = build_workflow(units(plan)[0], plan, settings)["spec"]
    assert {"name": "shards", "persistentVolumeClaim": {"claimName": "shards"}} in spec["volumes"]
    container = spec["templates"][1]["container"]
    assert {"name": "shards", "mountPath": "/shards"} in container["volumeMounts"]
    assert "--shards=/shards" in container["args"]


def test_workflow_names_depend_on_the_run_number() -> None:
    plan = plan_study(study(["0.09M"], [50], [1]), {})
    unit = units(plan)[0]
    assert workflow_name(unit, 1) == workflow_name(unit, 1) != workflow_name(unit, 2)


def test_workflow_without_execution_settings_is_rendered() -> None:
    made = study(["0.09M"], [50], [1])
    plan = plan_study(made, {})
    settings = PodSettings("team", "x", "", "s3://x", 1, Execution())
    workflow = build_workflow(units(plan)[-1], plan, settings)
    assert "ownerReferences" not in workflow["metadata"]
    assert "envFrom" not in container(workflow, "train")["container"]


SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.dictionaries(st.text("abc-/. ", min_size=1), SCALARS, max_size=3),
    lambda inner: st.dictionaries(st.text("abc:#", min_size=1), SCALARS | inner | st.lists(SCALARS | inner, max_size=3), max_size=3),
    max_leaves=8,
)


@given(DOCUMENTS)
def test_yaml_round_trip_is_lossless(document: dict[str, Any]) -> None:
    if document:
        assert yaml.safe_load(to_yaml(document)) == document


@pytest.mark.parametrize("text", ["yes", "1e3", "0x1", "~", "a: b", "# no", "über\nzwei", " lead", "{{x}}", "2026-01-01"])
def test_yaml_strings_stay_strings(text: str) -> None:
    document = {"key": text, "list": [text, {"in": text}], text: "key"}
    assert yaml.safe_load(to_yaml(document)) == document
