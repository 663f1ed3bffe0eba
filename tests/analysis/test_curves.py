import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.curves import downsample, loss_figure
from orchestrator.store.memory import in_memory_store
from tests.analysis.synthetic_study import FROM_SCRATCH, STEP, SyntheticStudy, store_records

STUDY = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"), seeds=(2, 1), suites=("bpb",))


def test_curves_of_the_first_seed_are_shifted_by_the_tokens_of_their_ancestors() -> None:
    store, plan = in_memory_store(), STUDY.plan()
    records = STUDY.records(plan)
    store_records(store, plan, records)
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert [row.title for row in figure.rows] == ["from-scratch", "balanced-to-text"]
    assert [panel.title for panel in figure.rows[0].panels] == ["0.03M", "0.09M"]
    panel = figure.rows[0].panels[0]
    # one seed per code percent: the stable trajectory, its decay from 900 to 1000 steps, the cooldown from 1000 to 1200
    assert [line.label for line in panel.lines] == ["", "", "0 %", "", "", "50 %"]
    assert [round(line.curve[-1][0] / STEP, -2) for line in panel.lines[:3]] == [1000, 1000, 1200]
    assert [round(line.curve[0][0] / STEP, -2) for line in panel.lines[1:3]] == [900, 1000]


@pytest.mark.parametrize(("seed", "drawn"), [("s1", True), ("s2", False)])
def test_the_first_seed_is_the_lowest_regardless_of_the_order_in_the_file(seed: str, drawn: bool) -> None:
    store, plan = in_memory_store(), STUDY.plan()
    records = STUDY.records(plan, lambda task: not task.label.endswith(seed))
    store_records(store, plan, records)
    assert (loss_figure(store, plan, records) is not None) == drawn


def test_losses_without_a_record_are_not_drawn() -> None:
    store, plan = in_memory_store(), STUDY.plan()
    store_records(store, plan, STUDY.records(plan))
    assert loss_figure(store, plan, {}) is None


def test_a_study_without_metrics_has_no_loss_figure() -> None:
    plan = STUDY.plan()
    assert loss_figure(in_memory_store(), plan, STUDY.records(plan)) is None


def test_a_damaged_metrics_table_removes_only_its_own_line() -> None:
    study = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,))
    store, plan = in_memory_store(), study.plan()
    records = study.records(plan)
    store_records(store, plan, records)
    table = min(stat.key for stat in store.objects.list("") if stat.key.endswith(".parquet"))
    store.objects.put(table, b"cut")
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert len(figure.rows[0].panels[0].lines) == 2


def test_skipped_steps_are_left_out_of_the_means() -> None:
    study = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,))
    store, plan = in_memory_store(), study.plan()
    records = study.records(plan)
    store_records(store, plan, records, loss=lambda _, step: math.nan if step % 3 == 1 else 2.0)
    figure = loss_figure(store, plan, records)
    assert figure is not None
    assert {y for line in figure.rows[0].panels[0].lines for _, y in line.curve} == {2.0}


@given(st.integers(0, 1000), st.floats(0.5, 200))
def test_downsampling_takes_means_of_neighbours_in_order(length: int, width: float) -> None:
    curve = downsample([(float(x), 2.0 * x) for x in range(length)], width)
    assert all(y == pytest.approx(2 * x) for x, y in curve)
    assert list(curve) == sorted(set(curve))
    assert len(curve) <= length
    assert len(curve) <= length / width + 1
    assert bool(curve) == bool(length)


def test_a_short_last_group_is_merged_into_the_group_before() -> None:
    noisy = [(float(x), 1.0) for x in range(10)] + [(10.0, 12.0)]
    assert downsample(noisy, 5) == ((2.0, 1.0), (7.5, 17 / 6))


def test_points_further_apart_than_the_width_are_unchanged() -> None:
    assert downsample([(1.0, 5.0), (2.0, 4.0)], 0.5) == ((1.0, 5.0), (2.0, 4.0))
