"""How often the cells read each source, and the refusal of too many readings."""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest

from orchestrator.contract.plan import Plan
from orchestrator.errors import PlanRefused
from orchestrator.planning import plan_study
from orchestrator.planning.repetition import Reading, SourceTokens, readings, refuse_repetition
from orchestrator.spec import Study, StudySpec
from tests.study_spec import study_spec

DOCUMENT = study_spec("store", ["0.03M"])
DOCUMENT["grid"]["codePercent"] = [0, 25, 50]
SPEC = StudySpec.model_validate(DOCUMENT)
READING = Reading("web", "scratch/0.03M/c0/s1", 5_000, SourceTokens(1_000, exact=True), Fraction(4))


@cache
def planned() -> Plan:
    return plan_study(Study("s", SPEC, "s.yaml", DOCUMENT), {})


@pytest.mark.parametrize(("source", "percent"), [("web", "0"), ("stack", "50")])
def test_reading_is_that_of_the_cell_that_reads_most(source: str, percent: str) -> None:
    """The middle cell is neither the one that reads most text nor the one that reads most code."""
    found = {reading.source: reading for reading in readings(planned(), SPEC.data.sources, {})}[source]
    digest = next(each.digest for each in planned().sources if each.name == source)
    cell = next(cell for cell in planned().cells if cell.code_percent == percent)
    assert (found.cell, found.tokens) == (cell.name, dict(cell.stages[-1].read)[digest] * 128)


def test_reading_of_a_stage_with_one_training_task_is_counted() -> None:
    document = study_spec("store", ["0.03M"])
    document["grid"]["codePercent"] = [50]
    document["recipes"][0]["stages"] = document["recipes"][0]["stages"][:1]
    document["evaluation"]["after"] = ["pretrain"]
    document["training"]["schedule"] = {"shape": "cosine", "warmup": 512}
    spec = StudySpec.model_validate(document)
    plan = plan_study(Study("s", spec, "s.yaml", document), {})
    (stage,) = plan.cells[0].stages
    assert len(stage.trains) == 1
    assert sum(reading.tokens for reading in readings(plan, spec.data.sources, {})) == stage.tokens


@pytest.mark.parametrize(
    ("of", "text", "is_over"),
    [
        (SourceTokens(1_000, exact=True), "5.00", True),
        (SourceTokens(1_000, exact=False), "~5.00", True),
        (SourceTokens(1_250, exact=True), "4.00", False),
        (SourceTokens(0, exact=True), "5000.00", True),
        (None, "?", False),
    ],
)
def test_epochs_are_marked_if_the_tokens_are_estimated(of: SourceTokens | None, text: str, is_over: bool) -> None:
    reading = replace(READING, of=of)
    assert (reading.epochs_text(), reading.is_over) == (text, is_over)


def test_only_counted_tokens_can_refuse_a_plan() -> None:
    for of in (None, SourceTokens(1_000, exact=False), SourceTokens(1_250, exact=True)):
        refuse_repetition([replace(READING, of=of)])
    with pytest.raises(PlanRefused, match=r"reads 5,000 tokens of its 1,000, that is 5\.00 times; at most 4 are allowed") as refused:
        refuse_repetition([READING, replace(READING, source="fine", of=None)])
    assert "maxRepetition: 6" in str(refused.value)
    assert "fine" not in str(refused.value)
