"""The namespace's policy."""

from typing import Any

import pytest

from orchestrator.errors import ClusterError
from orchestrator.reconcile.policy import policy_violations, read_policy
from orchestrator.spec import read_object
from tests.controller.simulated_cluster import SPEC

BROKEN: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"execution": {}}, {}, "ImageMissing"),
    ({"execution": {"image": "trainer:1", "storeSecret": "mlflow-backend"}}, {"storeSecrets": "store\nmore-*"}, "SecretNotAllowed"),
    ({"store": "folder"}, {}, "StoreNotShared"),
    ({"store": "file:///data/studies"}, {}, "StoreNotShared"),
    ({"execution": {"image": "trainer:1", "serviceAccount": "scaling-study-controller"}}, {}, "AccountNotAllowed"),
    ({"execution": {"image": "trainer:1", "storeSecret": "scaling-study-executor.service-account-token"}}, {}, "SecretNotAllowed"),
    ({}, {"images": "registry.example.com/*"}, "ImageNotAllowed"),
    ({}, {"queues": "research"}, "QueueNotAllowed"),
    ({"execution": {"image": "trainer:1", "queue": "other"}}, {"queues": "research\nmore"}, "QueueNotAllowed"),
    ({}, {"stores": "s3://studies/*"}, "StoreNotAllowed"),
    ({}, {"gpusPerPod": "0"}, "TooManyGpusPerPod"),
    ({"execution": {"image": "trainer:1", "gpusPerPod": {"0.03M": 9}}}, {"gpusPerPod": "8"}, "TooManyGpusPerPod"),
]


@pytest.mark.parametrize(("spec", "policy", "rule"), BROKEN)
def test_a_violated_rule_is_named(spec: dict[str, Any], policy: dict[str, str], rule: str) -> None:
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": {**SPEC, **spec}}
    assert [violation.rule for violation in policy_violations(read_object(body), read_policy(policy))] == [rule]


@pytest.mark.parametrize("secret", ["store", "more-1"])
def test_the_default_secret_and_the_listed_secrets_are_allowed(secret: str) -> None:
    spec = {**SPEC, "execution": {"image": "trainer:1", "storeSecret": secret}}
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": spec}
    assert policy_violations(read_object(body), read_policy({"storeSecret": "store", "storeSecrets": "more-*"})) == ()


def test_an_allowed_study_violates_no_rule() -> None:
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": SPEC}
    policy = {
        "images": "other:*\ntrainer:*",
        "stores": "memory://*",
        "gpusPerPod": "1",
        "gpuHours": "",
        "tolerations": "[{operator: Exists}]",
    }
    assert policy_violations(read_object(body), read_policy(policy)) == ()
    assert read_policy(policy).pod_defaults == {"tolerations": [{"operator": "Exists"}]}
    assert read_policy(None).gpu_hours is None
    more = read_policy({"workflowsAtOnce": "4", "checkpointSeconds": "20"})
    assert (more.workflows_at_once, more.checkpoint_seconds) == (4, 20)
    assert (read_policy(None).workflows_at_once, read_policy(None).checkpoint_seconds) == (None, 600)


@pytest.mark.parametrize(
    "data", [{"gpuHour": "10"}, {"gpuHours": "ten"}, {"gpuHours": "-1"}, {"gpuHours": "inf"}, {"tolerations": "key: x"}, {"gpu": "abacus"}]
)
def test_an_invalid_policy_is_an_error(data: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match="the policy"):
        read_policy(data)
