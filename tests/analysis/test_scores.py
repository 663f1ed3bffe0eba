import pytest

from analysis.tables.frame import Records, cells_frame, runs_frame
from analysis.tables.scores import Score, chance_accuracy, compute_scores, last_scored_stages, scored_stages
from orchestrator.contract.plan import Plan
from orchestrator.errors import ContractError
from tests.analysis.synthetic_study import SyntheticStudy, without_evaluations

SMALL = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"))
MANY_SOURCES = SyntheticStudy(sizes=("0.03M",), seeds=(1,), sources={"prose": "text", "stdlib": "code", "markup": "code"})


def scores_of(plan: Plan, records: Records) -> list[Score]:
    return compute_scores(runs_frame(plan, records), cells_frame(plan, records))


def test_every_scored_stage_has_one_score_per_suite_and_group() -> None:
    plan = SMALL.plan()
    found = scores_of(plan, SMALL.records(plan))
    # 8 cells of from-scratch in two stages, 4 of balanced-to-text in one; two suites, two groups
    assert len(found) == (8 * 2 + 4) * 4
    assert {(score.suite, score.metric) for score in found} == {("bpb", "bits_per_byte"), ("continuation", "accuracy")}


def test_a_group_averages_bits_per_byte_by_bytes_and_accuracy_by_source() -> None:
    plan = MANY_SOURCES.plan()
    records = MANY_SOURCES.records(plan)
    evaluations = plan.cells[0].stages[0].evaluations
    of = {(e.suite, e.source): e.digest for e in evaluations}
    values = {
        ("bpb", "stdlib"): (2.0, 100),
        ("bpb", "markup"): (5.0, 200),
        ("continuation", "stdlib"): (0.2, 1),
        ("continuation", "markup"): (0.6, 9),
    }
    for key, (value, weight) in values.items():
        results = {"bits_per_byte": value, "bytes": weight} if key[0] == "bpb" else {"accuracy": value, "items": weight}
        records[of[key]] = records[of[key]].model_copy(update={"results": results})
    found = {(s.suite, s.group): s for s in scores_of(plan, records) if (s.cell, s.stage_number) == (plan.cells[0].name, 1)}
    assert found["bpb", "code"].value == pytest.approx((2.0 * 100 + 5.0 * 200) / 300)
    assert found["continuation", "code"].value == pytest.approx(0.4)
    assert set(found["bpb", "code"].digests) == {of["bpb", "stdlib"], of["bpb", "markup"]}


def test_a_group_with_an_unscored_source_has_no_score() -> None:
    plan = MANY_SOURCES.plan()
    missing = next(e.digest for e in plan.cells[0].stages[0].evaluations if (e.suite, e.source) == ("bpb", "markup"))
    found = scores_of(plan, MANY_SOURCES.records(plan, lambda task: task.digest == missing))
    here = {(s.suite, s.group) for s in found if (s.cell, s.stage_number) == (plan.cells[0].name, 1)}
    assert here == {("bpb", "text"), ("continuation", "text"), ("continuation", "code")}


def test_the_error_for_a_score_without_bytes_names_its_record() -> None:
    plan = MANY_SOURCES.plan()
    records = MANY_SOURCES.records(plan)
    digest = next(e.digest for e in plan.cells[0].stages[0].evaluations if (e.suite, e.source) == ("bpb", "markup"))
    records[digest] = records[digest].model_copy(update={"results": {"bits_per_byte": 2.0}})
    with pytest.raises(ContractError, match=rf"tasks/{digest}/record\.json: bits_per_byte of source 'markup' has no positive `bytes`"):
        scores_of(plan, records)


def test_missing_evaluations_remove_only_the_scores_of_their_cell() -> None:
    plan = SMALL.plan()
    complete, incomplete = (
        scores_of(plan, SMALL.records(plan, missing)) for missing in (lambda _: False, without_evaluations(plan, [plan.cells[0].name]))
    )
    assert [score for score in complete if score.cell != plan.cells[0].name] == incomplete


def test_the_last_scored_stage_of_each_recipe_is_found() -> None:
    plan = SMALL.plan()
    found = scores_of(plan, SMALL.records(plan))
    assert scored_stages(found) == [("from-scratch", 1, "pretrain"), ("from-scratch", 2, "cooldown"), ("balanced-to-text", 2, "text")]
    assert last_scored_stages(found) == [("from-scratch", 2, "cooldown"), ("balanced-to-text", 2, "text")]


def test_chance_accuracy_comes_from_the_number_of_choices() -> None:
    plan = SMALL.plan()
    records = SMALL.records(plan)
    assert chance_accuracy(runs_frame(plan, records)) == 0.25
    assert chance_accuracy(runs_frame(plan, {})) is None
