"""Which sources of a study a plan prepares and names."""

from typing import Any

import pytest

from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import PrepareTask
from orchestrator.planning import plan_study
from orchestrator.spec import Study, StudySpec
from tests.study_spec import study_spec

UNREAD = "c" * 64
"""Fingerprint of a source that no stage reads."""


def planned(weights: dict[str, Any], suites: list[str]) -> Plan:
    document = study_spec("store", ["0.03M"])
    document["data"]["sources"].append({"name": "markup", "group": "code", "path": "markup", "fingerprint": UNREAD})
    document["data"]["tokenizer"]["train"]["weights"] = weights
    document["evaluation"]["suites"] = suites
    return plan_study(Study("s", StudySpec.model_validate(document), "s.yaml", document), {})


def prepared(plan: Plan) -> set[str]:
    return {task.task.fingerprint for task in plan.tasks.values() if isinstance(task.task, PrepareTask)}


@pytest.mark.parametrize(
    ("weights", "suites", "is_prepared", "is_named"),
    [
        pytest.param({"web": 100}, [], False, False, id="read by nothing"),
        pytest.param({"web": 50, "markup": 50}, [], False, True, id="read by the tokenizer"),
        pytest.param({"web": 100}, ["bpb"], True, True, id="scored"),
    ],
)
def test_source_is_prepared_if_it_is_read_or_scored_and_named_if_the_tokenizer_reads_it(
    weights: dict[str, Any], suites: list[str], is_prepared: bool, is_named: bool
) -> None:
    plan = planned(weights, suites)
    assert prepared(plan) == {"a" * 64, "b" * 64} | ({UNREAD} if is_prepared else set())
    assert ("markup" in [source.name for source in plan.sources]) == is_named
    assert plan.tokenizer in plan.tasks


def test_source_that_nothing_reads_is_not_named_with_a_tokenizer_file() -> None:
    document = study_spec("store", ["0.03M"])
    document["data"]["sources"].append({"name": "markup", "group": "code", "path": "markup", "fingerprint": UNREAD})
    document["data"]["tokenizer"] = {"file": "tokenizer.json", "vocabulary": 1024}
    document["evaluation"]["suites"] = []
    plan = plan_study(Study("s", StudySpec.model_validate(document), "s.yaml", document), {}, "f" * 64)
    assert [source.name for source in plan.sources] == ["web", "stack"]
