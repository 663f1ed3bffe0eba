import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.tables.frame import CELLS, DONE, MISSING, RUNS, cells_frame, runs_frame, write_tables
from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from tests.analysis.synthetic_study import BALANCED_TO_TEXT, FROM_SCRATCH, SyntheticRecipe, SyntheticStudy, lacking, shape

SMALL = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return SMALL.plan()


@pytest.fixture(scope="module")
def records(plan: Plan) -> dict[str, Record]:
    return SMALL.records(plan)


def test_columns_and_types_are_those_that_are_documented(plan: Plan, records: dict[str, Record]) -> None:
    for table, columns in ((runs_frame(plan, records), RUNS), (cells_frame(plan, records), CELLS)):
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {column.name: column.dtype for column in columns}
        assert all(column.meaning for column in columns)


def test_runs_has_one_row_for_every_digest_and_number_in_its_record(plan: Plan, records: dict[str, Record]) -> None:
    runs = runs_frame(plan, records)
    told = {(d, metric): float(value) for d, r in records.items() for metric, value in r.results.items() if not isinstance(value, str)}
    assert {(row.digest, row.metric): row.value for row in runs.itertuples()} == told
    assert len(runs) == len(told)


def test_cells_has_one_row_for_every_task_of_every_stage_of_every_cell(plan: Plan, records: dict[str, Record]) -> None:
    told = [
        (cell.name, stage.name, digest)
        for cell in plan.cells
        for stage in cell.stages
        for digest in (*stage.trains, *(evaluation.digest for evaluation in stage.evaluations))
    ]
    assert [(row.cell, row.stage, row.digest) for row in cells_frame(plan, records).itertuples()] == told


def test_an_evaluation_carries_the_facts_of_its_model_and_stage(plan: Plan, records: dict[str, Record]) -> None:
    cell = plan.cell("from-scratch/0.09M/c50/s2")
    cooldown = cell.stages[-1]
    runs = runs_frame(plan, records)
    row = runs[(runs.digest == cooldown.evaluations[0].digest) & (runs.metric == "bits_per_byte")].iloc[0]
    small = shape("0.09M")
    assert (row.kind, row.suite, row.source, row.source_group, row["size"]) == ("evaluate", "bpb", "prose", "text", "0.09M")
    assert (row.n_body, row.n, row.n_total) == (small.body, small.n, small.total)
    assert (row.stage_tokens, row.chain_tokens, row.steps) == (200 * 512, 1200 * 512, 200)
    assert (row.stage_code_percent, row.chain_code_percent) == (20.0, 45.0)
    assert row.flops_palm == (6 * small.n + 12 * 3 * 48 * 128) * 1200 * 512
    assert (row.bytes, row.attempts, row.seconds, row.cpu_seconds) == (200_000, 1, 10.0, 9.5)


def test_operations_are_counted_with_the_window_that_a_recipe_trains_on(plan: Plan, records: dict[str, Record]) -> None:
    """A study's own length says nothing of a recipe that has another."""
    elsewhere = replace(plan, sequence_length=plan.sequence_length // 2)
    assert runs_frame(elsewhere, records).flops_palm.equals(runs_frame(plan, records).flops_palm)


def test_a_prepared_source_is_a_run_and_belongs_to_no_cell(plan: Plan, records: dict[str, Record]) -> None:
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    prepared = runs[(runs.kind == "prepare") & (runs.metric == "tokens")]
    assert sorted(zip(prepared.source, prepared.source_group, strict=True)) == [("prose", "text"), ("stdlib", "code")]
    assert "prepare" not in set(cells.kind)


def test_a_piece_inside_a_stage_claims_no_tokens_of_the_stage(plan: Plan, records: dict[str, Record]) -> None:
    runs = runs_frame(plan, records)
    stage = plan.cell("from-scratch/0.03M/c0/s1").stages[0]
    piece, result = (runs[runs.digest == digest].iloc[0] for digest in stage.trains)
    assert pd.isna(piece.stage_tokens)
    assert pd.isna(piece.flops_palm)
    assert result.stage_tokens == stage.tokens


def test_a_missing_record_is_missing_in_cells_and_absent_in_runs(plan: Plan) -> None:
    hole = plan.cell("from-scratch/0.03M/c0/s1")
    records = SMALL.records(plan, lacking(plan, [hole.name]))
    cells, runs = cells_frame(plan, records), runs_frame(plan, records)
    lost = set(cells[cells.state == MISSING].digest)
    assert lost == {e.digest for stage in hole.stages for e in stage.evaluations}
    assert not lost & set(runs.digest)
    assert set(cells[cells.state == DONE].digest) <= set(runs.digest)


def test_a_recipe_that_fixes_its_proportions_has_no_code_percent(plan: Plan, records: dict[str, Record]) -> None:
    cells = cells_frame(plan, records)
    assert cells[cells.recipe == BALANCED_TO_TEXT.name].code_percent.isna().all()
    assert set(cells[cells.recipe == FROM_SCRATCH.name].code_percent) == {0.0, 50.0}


def test_a_task_that_two_cells_share_stands_once_in_runs_and_twice_in_cells() -> None:
    twice = SyntheticStudy(sizes=("0.03M",), recipes=(FROM_SCRATCH, SyntheticRecipe("again", FROM_SCRATCH.stages)), seeds=(1,))
    plan = twice.plan()
    records = twice.records(plan)
    cells, runs = cells_frame(plan, records), runs_frame(plan, records)
    assert (cells.groupby("digest").cell.nunique() == 2).all()
    assert not runs.duplicated(["digest", "metric"]).any()


def test_nothing_done_gives_empty_tables_with_all_their_columns(plan: Plan, tmp_path: Path) -> None:
    runs, cells = runs_frame(plan, {}), cells_frame(plan, {})
    write_tables(runs, cells, tmp_path)
    assert pq.read_table(tmp_path / "runs.parquet").num_rows == 0
    assert set(cells.state) == {MISSING}


def test_files_hold_the_tables_with_unit_and_meaning_of_each_column(plan: Plan, records: dict[str, Record], tmp_path: Path) -> None:
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    write_tables(runs, cells, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), runs)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cells.parquet"), cells)
    for name, columns in (("runs", RUNS), ("cells", CELLS)):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert {f.name: (f.metadata[b"unit"].decode(), f.metadata[b"meaning"].decode()) for f in schema} == {
            column.name: (column.unit, column.meaning) for column in columns
        }
    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        assert [row["digest"] for row in csv.DictReader(file)] == list(cells.digest)
