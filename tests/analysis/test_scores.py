import pytest

from analysis.tables.frame import Records, cells_frame, runs_frame
from analysis.tables.scores import Score, chance, last_places, places, scores
from orchestrator.contract.plan import Plan
from orchestrator.errors import ContractError
from tests.analysis.synthetic_study import SyntheticStudy, lacking

SMALL = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"))
MANY_SOURCES = SyntheticStudy(sizes=("0.03M",), seeds=(1,), sources={"prose": "text", "stdlib": "code", "markup": "code"})


def scores_of(plan: Plan, records: Records) -> list[Score]:
    return scores(runs_frame(plan, records), cells_frame(plan, records))


def test_every_scored_stage_has_a_score_a_suite_and_group() -> None:
    plan = SMALL.plan()
    found = scores_of(plan, SMALL.records(plan))
    # 8 cells of from-scratch in two stages, 4 of balanced-to-text in one; two suites, two groups
    assert len(found) == (8 * 2 + 4) * 4
    assert {(score.suite, score.metric) for score in found} == {("bpb", "bits_per_byte"), ("continuation", "accuracy")}


def test_sources_of_a_group_count_by_their_bytes_in_bits_per_byte_and_alike_in_accuracy() -> None:
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
    lost = next(e.digest for e in plan.cells[0].stages[0].evaluations if (e.suite, e.source) == ("bpb", "markup"))
    found = scores_of(plan, MANY_SOURCES.records(plan, lambda task: task.digest == lost))
    here = {(s.suite, s.group) for s in found if (s.cell, s.stage_number) == (plan.cells[0].name, 1)}
    assert here == {("bpb", "text"), ("continuation", "text"), ("continuation", "code")}


def test_a_score_that_cannot_be_weighed_is_refused_with_its_record() -> None:
    plan = MANY_SOURCES.plan()
    records = MANY_SOURCES.records(plan)
    digest = next(e.digest for e in plan.cells[0].stages[0].evaluations if (e.suite, e.source) == ("bpb", "markup"))
    records[digest] = records[digest].model_copy(update={"results": {"bits_per_byte": 2.0}})
    with pytest.raises(ContractError, match=rf"tasks/{digest}/record\.json has bits_per_byte of 'markup' but no `bytes`"):
        scores_of(plan, records)


def test_holes_only_take_their_own_cell_away() -> None:
    plan = SMALL.plan()
    whole, holed = (scores_of(plan, SMALL.records(plan, missing)) for missing in (lambda _: False, lacking(plan, [plan.cells[0].name])))
    assert [score for score in whole if score.cell != plan.cells[0].name] == holed


def test_the_last_scored_stage_of_each_recipe_is_told_from_the_earlier_ones() -> None:
    plan = SMALL.plan()
    found = scores_of(plan, SMALL.records(plan))
    assert places(found) == [("from-scratch", 1, "pretrain"), ("from-scratch", 2, "cooldown"), ("balanced-to-text", 2, "text")]
    assert last_places(found) == [("from-scratch", 2, "cooldown"), ("balanced-to-text", 2, "text")]


def test_chance_is_what_the_records_say() -> None:
    plan = SMALL.plan()
    records = SMALL.records(plan)
    assert chance(runs_frame(plan, records)) == 0.25
    assert chance(runs_frame(plan, {})) is None
