"""The tables of a study: `runs` with the results of tasks, `cells` with the tasks of every cell.

The report writes them to files for notebooks and draws its figures from them. A task that several cells share has one row per metric in
`runs` and one row per cell in `cells`; join the tables on `digest`. RUN_COLUMNS and CELL_COLUMNS define the type, unit and meaning of each
column; the Parquet files carry unit and meaning as field metadata.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from orchestrator.contract.plan import Cell, CellStage, Plan, PlannedTask
from orchestrator.contract.record import Attempt, Record
from orchestrator.contract.sizes import flops_palm
from orchestrator.contract.vocabulary import TaskKind

if TYPE_CHECKING:
    import pandas as pd

Row: TypeAlias = dict[str, Any]
Records: TypeAlias = Mapping[str, Record]

DONE: Final = "done"
MISSING: Final = "missing"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `dtype`: its pandas name; `unit`: "" if the column has none."""

    name: str
    dtype: str
    unit: str
    meaning: str


_TASK_COLUMNS: Final = (
    Column("kind", "str", "", "kind of the task: prepare, train or evaluate"),
    Column("suite", "str", "", "suite of an evaluation; empty for other kinds"),
    Column("source", "str", "", "name of the prepared or scored source; empty if there is none"),
    Column("source_group", "str", "", "group of that source: text or code"),
    Column("digest", "str", "", "digest of the task; its record is tasks/<digest>/record.json in the store"),
)

RUN_COLUMNS: Final = (
    *_TASK_COLUMNS,
    Column("metric", "str", "", "name of the result in the record"),
    Column("value", "float64", "the metric's", "bits_per_byte in bits per byte, accuracy from 0 to 1, loss in nats per token, or a count"),
    Column("size", "str", "", "name of the model's shape"),
    Column("n_body", "Int64", "parameters", "parameters without embedding and head"),
    Column("n", "Int64", "parameters", "N: parameters without the input embedding (body and head)"),
    Column("n_total", "Int64", "parameters", "all parameters; a tied head counts once"),
    Column("stage_tokens", "Int64", "tokens", "tokens of the stage that the task completes or scores; empty for a task inside a stage"),
    Column("chain_tokens", "Int64", "tokens", "tokens that the model has read by the end of that stage, over all its stages"),
    Column("steps", "Int64", "steps", "optimizer steps of that stage"),
    Column("stage_code_percent", "float64", "percent", "percentage of code in the stage's tokens"),
    Column("chain_code_percent", "float64", "percent", "percentage of code in all tokens that the model has read by the end of that stage"),
    Column(
        "flops_palm", "float64", "FLOPs",
        "training FLOPs by the end of that stage: (6 N + 12 L d T) x chain_tokens (arXiv:2204.02311, appendix B)",
    ),
    Column("bytes", "Int64", "bytes", "bytes of text that were scored or prepared"),
    Column("attempts", "Int64", "attempts", "number of attempts in the record"),
    Column("seconds", "float64", "s", "wall-clock time of those attempts"),
    Column("cpu_seconds", "float64", "s", "CPU time of rank 0 in those attempts; 0 for a killed attempt"),
    Column("gpu_seconds", "float64", "s", "GPU time of those attempts: GPUs held x wall-clock time"),
    Column("tokens_lost", "Int64", "tokens", "tokens that those attempts trained and lost at restarts"),
)  # fmt: skip

CELL_COLUMNS: Final = (
    Column("cell", "str", "", "name of the cell: one final model of the grid"),
    Column("recipe", "str", "", "recipe of the cell"),
    Column("size", "str", "", "name of the model's shape"),
    Column("code_percent", "float64", "percent", "the grid's percentage of code; empty for a recipe with fixed proportions"),
    Column("init_seed", "Int64", "", "seed of the initialisation"),
    Column("data_seed", "Int64", "", "seed of the data order"),
    Column("stage", "str", "", "name of the stage in the recipe"),
    Column("stage_kind", "str", "", "pretrain, continue or cooldown"),
    Column("stage_number", "Int64", "", "number of the stage in the recipe, from 1"),
    *_TASK_COLUMNS,
    Column("is_result", "bool", "", "whether this train task produces the stage's final model"),
    Column("state", "str", "", f"{DONE} if the store has a record of the task, otherwise {MISSING}"),
)


def runs_frame(plan: Plan, records: Records) -> "pd.DataFrame":
    """Return one row per recorded task and metric, in the order of the plan, with RUN_COLUMNS."""
    return _table(RUN_COLUMNS, _run_rows(plan, records))


def cells_frame(plan: Plan, records: Records) -> "pd.DataFrame":
    """Return one row per cell, stage and task, done or missing, in the order of the plan, with CELL_COLUMNS."""
    groups = {source.name: source.group for source in plan.sources}
    return _table(CELL_COLUMNS, (row for cell in plan.cells for row in _cell_rows(cell, groups, records)))


def rows_of(table: "pd.DataFrame") -> list[Row]:
    """Return the rows as dictionaries."""
    return [dict(zip(table.columns, values, strict=True)) for values in table.itertuples(index=False, name=None)]


def write_tables(runs: "pd.DataFrame", cells: "pd.DataFrame", out: Path) -> None:
    """Write runs.parquet, cells.parquet and cells.csv to the folder `out`."""
    _write_parquet(runs, RUN_COLUMNS, out / "runs.parquet")
    _write_parquet(cells, CELL_COLUMNS, out / "cells.parquet")
    cells.to_csv(out / "cells.csv", index=False, lineterminator="\n")


def _table(columns: tuple[Column, ...], rows: Iterable[Row]) -> "pd.DataFrame":
    import pandas as pd

    all_rows = list(rows)
    return pd.DataFrame({column.name: pd.Series(_values(column, all_rows), dtype=column.dtype) for column in columns})


def _values(column: Column, rows: list[Row]) -> list[Any]:
    empty = "" if column.dtype == "str" else None
    return [row.get(column.name, empty) for row in rows]


def _write_parquet(table: "pd.DataFrame", columns: tuple[Column, ...], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [arrow.schema.field(c.name).with_metadata({"unit": c.unit, "meaning": c.meaning}) for c in columns]
    pq.write_table(arrow.cast(pa.schema(fields, metadata=arrow.schema.metadata)), path)


def _run_rows(plan: Plan, records: Records) -> Iterator[Row]:
    columns = {**_source_columns(plan), **_stage_columns(plan)}
    for task in plan.tasks.values():
        record = records.get(task.digest)
        if record is None:
            continue
        own = columns.get(task.digest, {})
        shared = {**own, **_size_columns(plan, task, own), **_attempt_columns(record)}
        for metric, value in record.results.items():
            if not isinstance(value, str):
                yield {**shared, "digest": task.digest, "kind": str(task.kind), "metric": metric, "value": float(value)}


def _source_columns(plan: Plan) -> dict[str, Row]:
    return {source.digest: {"source": source.name, "source_group": source.group} for source in reversed(plan.sources)}


def _stage_columns(plan: Plan) -> dict[str, Row]:
    """Return columns by digest, from the first stage that the task completes or scores."""
    groups = {source.name: source.group for source in plan.sources}
    columns: dict[str, Row] = {}
    for cell in plan.cells:
        for stage in cell.stages:
            of_stage = {"size": cell.size, **_token_columns(stage)}
            columns.setdefault(stage.result, of_stage)
            for evaluation in stage.evaluations:
                scored = {"suite": evaluation.suite, "source": evaluation.source, "source_group": groups.get(evaluation.source, "")}
                columns.setdefault(evaluation.digest, {**of_stage, **scored})
    return columns


def _token_columns(stage: CellStage) -> Row:
    return {
        "stage_tokens": stage.tokens,
        "chain_tokens": stage.chain_tokens,
        "steps": stage.steps,
        "stage_code_percent": float(stage.code_percent),
        "chain_code_percent": float(stage.chain_code_percent),
    }


def _size_columns(plan: Plan, task: PlannedTask, of_stage: Row) -> Row:
    size, chain_tokens = of_stage.get("size") or task.size, of_stage.get("chain_tokens")
    shape = plan.shapes.get(size)
    if shape is None:
        return {}
    flops = None if chain_tokens is None else float(flops_palm(shape, plan.window_of(task)) * chain_tokens)
    return {"size": size, "n_body": shape.body, "n": shape.n, "n_total": shape.total, "flops_palm": flops}


def _attempt_columns(record: Record) -> Row:
    return {
        "bytes": record.results.get("bytes"),
        "attempts": len(record.attempts),
        "seconds": sum(attempt_seconds(attempt) for attempt in record.attempts),
        "cpu_seconds": sum(attempt.cpu_seconds for attempt in record.attempts),
        "gpu_seconds": sum(attempt.gpu_seconds for attempt in record.attempts),
        "tokens_lost": sum(attempt.tokens_lost for attempt in record.attempts),
    }


def attempt_seconds(attempt: Attempt) -> float:
    """Return the duration of an attempt by the clock of its machine."""
    return (datetime.fromisoformat(attempt.end) - datetime.fromisoformat(attempt.start)).total_seconds()


def _cell_rows(cell: Cell, groups: Mapping[str, str], records: Records) -> Iterator[Row]:
    for number, stage in enumerate(cell.stages, 1):
        of_stage = {
            "cell": cell.name, "recipe": cell.recipe, "size": cell.size,
            "code_percent": None if cell.code_percent is None else float(cell.code_percent),
            "init_seed": cell.init_seed, "data_seed": cell.data_seed,
            "stage": stage.name, "stage_kind": stage.kind, "stage_number": number,
        }  # fmt: skip
        for row in (*_train_rows(stage), *_evaluate_rows(stage, groups)):
            yield {**of_stage, **row, "state": DONE if row["digest"] in records else MISSING}


def _train_rows(stage: CellStage) -> Iterator[Row]:
    for digest in stage.trains:
        yield {"kind": str(TaskKind.TRAIN), "digest": digest, "is_result": digest == stage.result}


def _evaluate_rows(stage: CellStage, groups: Mapping[str, str]) -> Iterator[Row]:
    for evaluation in stage.evaluations:
        yield {
            "kind": str(TaskKind.EVALUATE), "digest": evaluation.digest, "suite": evaluation.suite,
            "source": evaluation.source, "source_group": groups.get(evaluation.source, ""), "is_result": False,
        }  # fmt: skip
