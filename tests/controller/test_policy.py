"""The namespace's policy: every rule names the path, what was given and what is allowed."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import ClusterError
from orchestrator.reconcile.policy import KNOWN_KEYS, LIMITS, missing_limits, policy_violations, read_policy, violations_on_any_cluster
from orchestrator.spec import Study, read_object
from tests.controller.simulated_cluster import SPEC, SimulatedCluster

ROOT = Path(__file__).parents[2]


def study_with(**changes: Any) -> Study:
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": {**SPEC, **changes}}
    return read_object(body)


def execution(**settings: Any) -> dict[str, Any]:
    return {"execution": {"image": "trainer:1", **settings}}


def source(path: str) -> dict[str, Any]:
    first, *others = SPEC["data"]["sources"]
    return {"data": {**SPEC["data"], "sources": [{**first, "path": path}, *others]}}


def tokenizer(path: str) -> dict[str, Any]:
    return {"data": {**SPEC["data"], "tokenizer": {"file": path, "vocabulary": 1024}}}


# (changes of the spec, policy, rule, words of the message: the path, what was given, what is allowed)
BROKEN: list[tuple[dict[str, Any], dict[str, str], str, tuple[str, ...]]] = [
    ({"execution": {}}, {}, "ImageMissing", ("spec.execution.image", "preferably by digest")),
    (execution(storeSecret="mlflow-backend"), {"storeSecrets": "store\nmore-*"}, "SecretNotAllowed", ("'mlflow-backend'", "store, more-*")),
    ({"store": "folder"}, {"stores": "s3://studies/*"}, "StoreNotShared", ("spec.store", "'folder'", "s3://")),
    ({"store": "file:///data/studies"}, {}, "StoreNotShared", ("spec.store", "'file:///data/studies'", "s3://")),
    (execution(serviceAccount="scaling-study-controller"), {}, "AccountNotAllowed", ("spec.execution.serviceAccount", "your own account")),
    (execution(serviceAccount="scaling-study-executor"), {"serviceAccounts": "*"}, "AccountNotAllowed", ("reserved for the system",)),
    (execution(serviceAccount="team-b"), {"serviceAccounts": "team-a\nci"}, "AccountNotAllowed", ("'team-b'", "team-a, ci")),
    (execution(storeSecret="scaling-study-executor.service-account-token"), {}, "SecretNotAllowed", ("a cluster token",)),
    ({}, {"images": "registry.example.com/*"}, "ImageNotAllowed", ("spec.execution.image", "'trainer:1'", "registry.example.com/*")),
    ({}, {"queues": "research"}, "QueueNotAllowed", ("spec.execution.queue", "''", "research")),
    (execution(queue="other"), {"queues": "research\nmore"}, "QueueNotAllowed", ("'other'", "research, more")),
    ({}, {"stores": "s3://studies/*"}, "StoreNotAllowed", ("spec.store", "'memory://simulated'", "s3://studies/*")),
    ({"store": "s3://studies/team-b"}, {"stores": "s3://studies/team-a/*"}, "StoreNotAllowed", ("'s3://studies/team-b'",)),
    ({}, {"gpusPerPod": "0"}, "TooManyGpusPerPod", ('spec.execution.gpusPerPod["0.03M"]', "1 ", "at most 0")),
    (execution(gpusPerPod={"0.03M": 9}), {"gpusPerPod": "8"}, "TooManyGpusPerPod", ("9 ", "at most 8")),
    (execution(nodes={"0.03M": 1024}), {"nodesPerTask": "4"}, "TooManyNodesPerTask", ('execution.nodes["0.03M"]', "1024", "at most 4")),
    (execution(priorityClass="system-node-critical"), {}, "PriorityNotAllowed", ("spec.execution.priorityClass", "'system-node-critical'")),
    (execution(priorityClass="urgent"), {"priorityClasses": "low\nmedium"}, "PriorityNotAllowed", ("'urgent'", "low, medium")),
    (execution(pullSecrets=["mine", "theirs"]), {"pullSecrets": "mine"}, "PullSecretNotAllowed", ("pullSecrets[1]", "'theirs'", "mine")),
    (execution(tolerations=[{"key": "team-b", "operator": "Exists"}]), {"allowTolerations": "false"}, "TolerationsNotAllowed",
     ("spec.execution.tolerations", "'team-b'", "allowTolerations: false")),
    (execution(nodeSelector={"zone": "b"}), {"allowNodeSelector": "false"}, "NodeSelectorNotAllowed",
     ("spec.execution.nodeSelector", "'zone'", "allowNodeSelector: false")),
    (source("s3://hr-secrets/payroll"), {"sources": "s3://corpora/*"}, "SourceNotAllowed",
     ("spec.data.sources[0].path", "'s3://hr-secrets/payroll'", "s3://corpora/*")),
    (source("/etc"), {}, "SourceNotAllowed", ("spec.data.sources[0].path", "'/etc'", "s3://", "`sources`")),
    (source("file:///etc"), {}, "SourceNotAllowed", ("spec.data.sources[0].path", "'file:///etc'", "s3://", "`sources`")),
    (source("file:///etc"), {"sources": "s3://corpora/*\n/data/*"}, "SourceNotAllowed", ("'file:///etc'", "s3://corpora/*, /data/*")),
    (source("web"), {"sources": "*"}, "RelativePath", ("spec.data.sources[0].path", "'web'", "s3://")),
    (tokenizer("bpe/tokenizer.json"), {}, "RelativePath", ("spec.data.tokenizer.file", "'bpe/tokenizer.json'")),
    (tokenizer("/var/run/secrets/token"), {}, "SourceNotAllowed", ("spec.data.tokenizer.file", "'/var/run/secrets/token'")),
    (tokenizer("s3://hr/tokenizer.json"), {"sources": "s3://corpora/*"}, "SourceNotAllowed", ("spec.data.tokenizer.file",)),
    (source("/data/../etc"), {"sources": "*"}, "AddressNotAllowed", ("spec.data.sources[0].path", "'/data/../etc'", "'..'")),
    (source("s3://corpora/a%20b"), {}, "AddressNotAllowed", ("'s3://corpora/a%20b'", "'%20'", "the character itself")),
    ({"store": "s3://studies/{{=sprig.repeat(1000000000, 'A')}}"}, {}, "TemplateNotAllowed", ("spec.store", "{{=sprig", "remove it")),
    (execution(nodeSelector={"{{workflow.uid}}": "x"}), {}, "TemplateNotAllowed", ('spec.execution.nodeSelector["{{workflow.uid}}"]',)),
    (execution(tolerations=[{"key": "k", "value": "a{{b"}]), {}, "TemplateNotAllowed", ("spec.execution.tolerations[0].value",)),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "policy", "rule", "words"), BROKEN)
def test_a_violated_rule_is_named(spec: dict[str, Any], policy: dict[str, str], rule: str, words: tuple[str, ...]) -> None:
    allowed = {"sources": "*"} if rule == "TemplateNotAllowed" else {}
    (violation,) = policy_violations(study_with(**spec), read_policy(allowed | policy))
    assert violation.rule == rule
    assert [word for word in words if word not in violation.message] == []


@pytest.mark.parametrize(
    "address", ["s3://studies/team-a/../team-b/x", "s3://studies/team-a/%2e%2E/team-b", "s3://studies/team-a/x%2f..%2f..%2fteam-b"]
)
def test_store_given_on_the_command_line_cannot_leave_its_folder(address: str) -> None:
    study = study_with()
    changed = Study(study.name, study.spec.model_copy(update={"store": address}), study.path, study.document)
    (violation,) = policy_violations(changed, read_policy({"stores": "s3://studies/team-a/*"}))
    assert violation.rule == "AddressNotAllowed"
    assert f"spec.store: {address!r} contains the segment" in violation.message


def test_template_in_a_store_given_on_the_command_line_is_refused() -> None:
    study = study_with()
    changed = Study(study.name, study.spec.model_copy(update={"store": "s3://studies/{{workflow.uid}}"}), study.path, study.document)
    assert [violation.rule for violation in policy_violations(changed, read_policy({}))] == ["TemplateNotAllowed"]


ALLOWED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"store": "s3://studies/team-a/x"}, {"stores": "s3://studies/team-a/*"}),
    ({"store": "s3://studies//team-a/x"}, {"stores": "s3://studies/team-a/*"}),
    (source("/data/web"), {"sources": "s3://corpora/*\nfile:///data/*"}),
    (source("file:///data//web"), {"sources": "s3://corpora/*\n/data/*"}),
    (source("s3://anything/at/all"), {}),
    (tokenizer("s3://corpora/tokenizer.json"), {"sources": "s3://corpora/*"}),
    (execution(serviceAccount="scaling-study-trainer"), {"serviceAccounts": "team-a"}),
    (execution(serviceAccount="team-a"), {"serviceAccounts": "team-*"}),
    (execution(priorityClass="default-class"), {"priorityClasses": "low", "priorityClass": "default-class"}),
    (execution(pullSecrets=["mine"]), {"pullSecrets": "mine"}),
    (execution(nodes={"0.03M": 4}), {"nodesPerTask": "4"}),
    (execution(tolerations=[{"operator": "Exists"}], nodeSelector={"zone": "b"}), {"allowTolerations": "true"}),
    (execution(nodeSelector={"zone": "{b}"}), {}),
]


@pytest.mark.parametrize(("spec", "policy"), ALLOWED)
def test_values_allowed_by_the_policy_violate_no_rule(spec: dict[str, Any], policy: dict[str, str]) -> None:
    assert policy_violations(study_with(**spec), read_policy(policy)) == ()


def test_submit_does_not_check_the_rules_of_the_namespace() -> None:
    assert list(violations_on_any_cluster(study_with(**source("/data/web")))) == []
    assert [violation.rule for violation in violations_on_any_cluster(study_with(**source("web")))] == ["RelativePath"]


def test_a_missing_policy_and_empty_values_are_named_as_missing_limits() -> None:
    assert "no policy ConfigMap" in missing_limits(None)
    assert missing_limits({"gpuHours": "1"}).startswith("the policy sets no limit for gpusPerPod, nodesPerTask, ")
    assert missing_limits(dict.fromkeys(LIMITS, "1")) == ""
    assert missing_limits(dict.fromkeys(LIMITS, "1") | {"stores": " \n"}) == (
        "the policy sets no limit for stores; an empty value allows everything"
    )


def test_missing_limits_are_logged_once_and_again_after_a_change(caplog: pytest.LogCaptureFixture) -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    with caplog.at_level(logging.WARNING, "orchestrator.controller.loop"):
        simulated.step(loop, 3)
        assert [record.message for record in caplog.records] == [f"ConfigMap scaling-study-policy: {missing_limits(None)}"]
        simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": "1"}
        simulated.step(loop, 3)
    assert len(caplog.records) == 2
    assert "the policy sets no limit for gpusPerPod" in caplog.records[1].message


def test_readme_and_manifest_list_every_key_of_the_policy() -> None:
    manifest = yaml.safe_load((ROOT / "manifests/base/policy.yaml").read_text())["data"]
    assert set(manifest) <= set(KNOWN_KEYS)
    assert set(KNOWN_KEYS) - set(manifest) == {"gpu"}
    section = (ROOT / "README.md").read_text().split("### The policy of a namespace")[1].split("\n#")[0]
    rows = "".join(row.split("|")[1] for row in section.splitlines() if row.startswith("| `"))
    assert sorted(re.findall("`([A-Za-z]+)`", rows)) == sorted(KNOWN_KEYS)


@pytest.mark.parametrize("secret", ["store", "more-1"])
def test_the_default_secret_and_the_listed_secrets_are_allowed(secret: str) -> None:
    study = study_with(**execution(storeSecret=secret))
    assert policy_violations(study, read_policy({"storeSecret": "store", "storeSecrets": "more-*"})) == ()


def test_an_allowed_study_violates_no_rule() -> None:
    policy = {
        "images": "other:*\ntrainer:*",
        "stores": "memory://*",
        "gpusPerPod": "1",
        "gpuHours": "",
        "tolerations": "[{operator: Exists}]",
    }
    assert policy_violations(study_with(), read_policy(policy)) == ()
    assert read_policy(policy).pod_defaults == {"tolerations": [{"operator": "Exists"}]}
    assert read_policy(None).gpu_hours is None
    more = read_policy({"workflowsAtOnce": "4", "checkpointSeconds": "20"})
    assert (more.workflows_at_once, more.checkpoint_seconds) == (4, 20)
    assert (read_policy(None).workflows_at_once, read_policy(None).checkpoint_seconds) == (None, 600)


INVALID = [
    {"gpuHour": "10"},
    {"gpuHours": "ten"},
    {"gpuHours": "-1"},
    {"gpuHours": "inf"},
    {"tolerations": "key: x"},
    {"gpu": "abacus"},
    {"nodesPerTask": "many"},
    {"nodesPerTask": "1.5"},
    {"allowTolerations": "no"},
    {"allowNodeSelector": "False"},
]


@pytest.mark.parametrize("data", INVALID)
def test_an_invalid_policy_is_an_error(data: dict[str, str]) -> None:
    (key,) = data
    with pytest.raises(ClusterError, match=rf"the policy.*{key}"):
        read_policy(data)
