"""Parsing of Workflows and pods."""

import pytest

from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, WAITER
from orchestrator.reconcile.observed import parse_pod, parse_workflow
from tests.reconcile.decisions import (
    trunk,
)


def test_workflow_with_invalid_labels_is_parsed() -> None:
    metadata = {"name": "odd", "labels": {"scaling-study.dev/run": "two"}, "annotations": {"scaling-study.dev/tasks": "[half"}}
    found = parse_workflow({"metadata": metadata, "spec": {}})
    assert (found.run_number, found.digests) == (0, ())


@pytest.mark.parametrize(("account", "works"), [("scaling-study-executor", True), (WAITER, False)])
def test_trainer_start_is_the_start_of_the_main_container(account: str, works: bool) -> None:
    running = {"name": "main", "state": {"running": {"startedAt": "2030-01-01T00:00:00Z"}}}
    body = {"metadata": {"name": "p"}, "spec": {"serviceAccountName": account}, "status": {"containerStatuses": [running]}}
    assert (parse_pod(body, {}).trainer_started_at is not None) == works


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_reason_is_that_of_the_attempt_not_of_the_retry_node(names: tuple[str, str]) -> None:
    """Both nodes may have started in the same second, and are listed in any order."""
    digest = trunk().tasks[0]
    parameters = {"parameters": [{"name": "short", "value": digest[:DIGEST_LABEL_LENGTH]}]}
    at = {"startedAt": "2030-01-01T00:00:00Z", "phase": "Failed", "inputs": parameters}
    nodes = {
        names[0]: {**at, "type": "Retry", "message": "retryStrategy.expression evaluated to false"},
        names[1]: {**at, "type": "Pod", "message": "main: OOMKilled (exit code 137)"},
    }
    body = {"metadata": {"name": "w"}, "spec": {}, "status": {"phase": "Failed", "nodes": dict(sorted(nodes.items()))}}
    seen = parse_workflow(body)
    assert seen.reasons == {digest[:DIGEST_LABEL_LENGTH]: "main: OOMKilled (exit code 137)"}
    assert seen.failed == {digest[:DIGEST_LABEL_LENGTH]}
