import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.tables.frame import CELL_COLUMNS, DONE, MISSING, RUN_COLUMNS, cells_frame, runs_frame, write_tables
from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from tests.analysis.synthetic_study import BALANCED_TO_TEXT, FROM_SCRATCH, SyntheticRecipe, SyntheticStudy, shape, without_evaluations

SMALL = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0", "50"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return SMALL.plan()


@pytest.fixture(scope="module")
def records(plan: Plan) -> dict[str, Record]:
    return SMALL.records(plan)


def test_columns_and_types_match_their_documentation(plan: Plan, records: dict[str, Record]) -> None:
    for table, columns in ((runs_frame(plan, records), RUN_COLUMNS), (cells_frame(plan, records), CELL_COLUMNS)):
        assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {column.name: column.dtype for column in columns}
        assert all(column.meaning for column in columns)


def test_runs_has_one_row_per_digest_and_number_in_its_record(plan: Plan, records: dict[str, Record]) -> None:
    runs = runs_frame(plan, records)
    expected = {(d, metric): float(value) for d, r in records.items() for metric, value in r.results.items() if not isinstance(value, str)}
    assert {(row.digest, row.metric): row.value for row in runs.itertuples()} == expected
    assert len(runs) == len(expected)


def test_cells_has_one_row_per_cell_stage_and_task(plan: Plan, records: dict[str, Record]) -> None:
    expected = [
        (cell.name, stage.name, digest)
        for cell in plan.cells
        for stage in cell.stages
        for digest in (*stage.trains, *(evaluation.digest for evaluation in stage.evaluations))
    ]
    assert [(row.cell, row.stage, row.digest) for row in cells_frame(plan, records).itertuples()] == expected


def test_an_evaluation_has_the_columns_of_its_model_and_stage(plan: Plan, records: dict[str, Record]) -> None:
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


def test_flops_use_the_sequence_length_of_the_recipe(plan: Plan, records: dict[str, Record]) -> None:
    """A different sequence length of the study does not change the FLOPs of recipes that set their own."""
    other = replace(plan, sequence_length=plan.sequence_length // 2)
    assert runs_frame(other, records).flops_palm.equals(runs_frame(plan, records).flops_palm)


def test_a_prepared_source_is_a_run_and_belongs_to_no_cell(plan: Plan, records: dict[str, Record]) -> None:
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    prepared = runs[(runs.kind == "prepare") & (runs.metric == "tokens")]
    assert sorted(zip(prepared.source, prepared.source_group, strict=True)) == [("prose", "text"), ("stdlib", "code")]
    assert "prepare" not in set(cells.kind)


def test_a_task_inside_a_stage_has_no_stage_tokens(plan: Plan, records: dict[str, Record]) -> None:
    runs = runs_frame(plan, records)
    stage = plan.cell("from-scratch/0.03M/c0/s1").stages[0]
    inner, result = (runs[runs.digest == digest].iloc[0] for digest in stage.trains)
    assert pd.isna(inner.stage_tokens)
    assert pd.isna(inner.flops_palm)
    assert result.stage_tokens == stage.tokens


def test_a_missing_record_is_missing_in_cells_and_absent_in_runs(plan: Plan) -> None:
    incomplete = plan.cell("from-scratch/0.03M/c0/s1")
    records = SMALL.records(plan, without_evaluations(plan, [incomplete.name]))
    cells, runs = cells_frame(plan, records), runs_frame(plan, records)
    missing = set(cells[cells.state == MISSING].digest)
    assert missing == {e.digest for stage in incomplete.stages for e in stage.evaluations}
    assert not missing & set(runs.digest)
    assert set(cells[cells.state == DONE].digest) <= set(runs.digest)


def test_a_recipe_with_fixed_proportions_has_no_code_percent(plan: Plan, records: dict[str, Record]) -> None:
    cells = cells_frame(plan, records)
    assert cells[cells.recipe == BALANCED_TO_TEXT.name].code_percent.isna().all()
    assert set(cells[cells.recipe == FROM_SCRATCH.name].code_percent) == {0.0, 50.0}


def test_a_task_shared_by_two_cells_appears_once_in_runs_and_twice_in_cells() -> None:
    twice = SyntheticStudy(sizes=("0.03M",), recipes=(FROM_SCRATCH, SyntheticRecipe("again", FROM_SCRATCH.stages)), seeds=(1,))
    plan = twice.plan()
    records = twice.records(plan)
    cells, runs = cells_frame(plan, records), runs_frame(plan, records)
    assert (cells.groupby("digest").cell.nunique() == 2).all()
    assert not runs.duplicated(["digest", "metric"]).any()


def test_a_study_without_records_has_tables_with_all_columns(plan: Plan, tmp_path: Path) -> None:
    runs, cells = runs_frame(plan, {}), cells_frame(plan, {})
    write_tables(runs, cells, tmp_path)
    assert pq.read_table(tmp_path / "runs.parquet").num_rows == 0
    assert set(cells.state) == {MISSING}


def test_files_contain_the_tables_with_unit_and_meaning_of_each_column(plan: Plan, records: dict[str, Record], tmp_path: Path) -> None:
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    write_tables(runs, cells, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), runs)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cells.parquet"), cells)
    for name, columns in (("runs", RUN_COLUMNS), ("cells", CELL_COLUMNS)):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert {f.name: (f.metadata[b"unit"].decode(), f.metadata[b"meaning"].decode()) for f in schema} == {
            column.name: (column.unit, column.meaning) for column in columns
        }
    with (tmp_path / "cells.csv").open(newline="", encoding="utf-8") as file:
        assert [row["digest"] for row in csv.DictReader(file)] == list(cells.digest)
