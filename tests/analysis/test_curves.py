import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.curves import loss_figure, thinned
from orchestrator.store.memory import in_memory_store
from tests.analysis.synthetic_study import FROM_SCRATCH, STEP, SyntheticStudy, keep

STUDY = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"), seeds=(2, 1), suites=("bpb",))


def test_losses_are_drawn_for_the_first_seed_behind_the_tokens_of_their_ancestors() -> None:
    store, plan = in_memory_store(), STUDY.plan()
    records = STUDY.records(plan)
    keep(store, plan, records)
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert [strip.title for strip in figure.strips] == ["from-scratch", "balanced-to-text"]
    assert [panel.title for panel in figure.strips[0].panels] == ["0.03M", "0.09M"]
    panel = figure.strips[0].panels[0]
    # of each code percent one seed: the stable piece, its leaf from 900 to 1000 steps, the cooldown from 1000 to 1200
    assert [line.label for line in panel.lines] == ["", "", "0 %", "", "", "50 %"]
    assert [round(line.curve[-1][0] / STEP, -2) for line in panel.lines[:3]] == [1000, 1000, 1200]
    assert [round(line.curve[0][0] / STEP, -2) for line in panel.lines[1:3]] == [900, 1000]


@pytest.mark.parametrize(("there", "drawn"), [("s1", True), ("s2", False)])
def test_the_first_seed_is_the_lowest_wherever_it_stands_in_the_file(there: str, drawn: bool) -> None:
    store, plan = in_memory_store(), STUDY.plan()
    records = STUDY.records(plan, lambda task: not task.label.endswith(there))
    keep(store, plan, records)
    assert (loss_figure(store, plan, records) is not None) == drawn


def test_losses_that_no_record_stands_behind_are_not_drawn() -> None:
    store, plan = in_memory_store(), STUDY.plan()
    keep(store, plan, STUDY.records(plan))
    assert loss_figure(store, plan, {}) is None


def test_a_study_without_metrics_has_no_loss_figure() -> None:
    plan = STUDY.plan()
    assert loss_figure(in_memory_store(), plan, STUDY.records(plan)) is None


def test_a_damaged_table_of_metrics_costs_its_line_and_no_more() -> None:
    study = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,))
    store, plan = in_memory_store(), study.plan()
    records = study.records(plan)
    keep(store, plan, records)
    table = min(stat.key for stat in store.objects.list("") if stat.key.endswith(".parquet"))
    store.objects.put(table, b"cut")
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert len(figure.strips[0].panels[0].lines) == 2


def test_steps_that_were_skipped_leave_no_hole_and_no_error() -> None:
    study = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,))
    store, plan = in_memory_store(), study.plan()
    records = study.records(plan)
    keep(store, plan, records, loss=lambda _, step: math.nan if step % 3 == 1 else 2.0)
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert {y for line in figure.strips[0].panels[0].lines for _, y in line.curve} == {2.0}


@given(st.integers(0, 1000), st.floats(0.5, 200))
def test_thinning_takes_means_of_neighbours_in_order(length: int, width: float) -> None:
    curve = thinned([(float(x), 2.0 * x) for x in range(length)], width)
    assert all(y == pytest.approx(2 * x) for x, y in curve)
    assert list(curve) == sorted(set(curve))
    assert len(curve) <= length
    assert len(curve) <= length / width + 1
    assert bool(curve) == bool(length)


def test_a_short_rest_does_not_jump_about_at_the_end_of_a_line() -> None:
    noisy = [(float(x), 1.0) for x in range(10)] + [(10.0, 12.0)]
    assert thinned(noisy, 5) == ((2.0, 1.0), (7.5, 17 / 6))


def test_points_further_apart_than_the_width_stay_as_they_are() -> None:
    assert thinned([(1.0, 5.0), (2.0, 4.0)], 0.5) == ((1.0, 5.0), (2.0, 4.0))
