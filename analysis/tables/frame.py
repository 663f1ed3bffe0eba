"""The tables of a study: `runs`, what was measured, and `cells`, which cell every task belongs to.

`report` writes them and draws from them; notebooks read the files. A task that serves several cells stands once in `runs` and once a
cell in `cells`: join them by `digest`. A column's type, unit and meaning stand here, once, and travel in the Parquet files.
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
    """`dtype` as pandas names it; `unit` is "" where there is none."""

    name: str
    dtype: str
    unit: str
    meaning: str


_TASK: Final = (
    Column("kind", "str", "", "prepare, train or evaluate"),
    Column("suite", "str", "", "suite of an evaluation, empty for other kinds"),
    Column("source", "str", "", "the study's name for the source that was prepared or scored, empty where there is none"),
    Column("source_group", "str", "", "text or code: the group of that source"),
    Column("digest", "str", "", "of the task: its record is tasks/<digest>/record.json in the store"),
)

RUNS: Final = (
    *_TASK,
    Column("metric", "str", "", "name of the result as the record has it"),
    Column(
        "value", "float64", "the metric's", "bits_per_byte in bits a byte, accuracy from 0 to 1, loss in nats a token, counts as counts"
    ),
    Column("size", "str", "", "name of the model's shape"),
    Column("n_body", "Int64", "parameters", "without embedding and head"),
    Column("n", "Int64", "parameters", "N: without the input embedding, that is body and head"),
    Column("n_total", "Int64", "parameters", "all; a tied head is counted once"),
    Column("stage_tokens", "Int64", "tokens", "of the stage that this task ends or scores, whole steps; empty for a piece inside a stage"),
    Column("chain_tokens", "Int64", "tokens", "that the model has read at the end of that stage, over all its stages"),
    Column("steps", "Int64", "steps", "of the optimiser in that stage"),
    Column("stage_code_percent", "float64", "percent", "code among the stage's tokens"),
    Column("chain_code_percent", "float64", "percent", "code among all tokens that the model has read at the end of that stage"),
    Column("flops_palm", "float64", "FLOPs", "of training up to there: (6 N + 12 L d T) x chain_tokens (arXiv:2204.02311, appendix B)"),
    Column("bytes", "Int64", "bytes", "of text that the result is about: scored, or prepared"),
    Column("attempts", "Int64", "attempts", "that the record names"),
    Column("seconds", "float64", "s", "from start to end, summed over those attempts"),
    Column("cpu_seconds", "float64", "s", "of processor time in those attempts"),
    Column("gpu_seconds", "float64", "s", "of GPUs held in those attempts"),
    Column("tokens_lost", "Int64", "tokens", "trained by those attempts and thrown away at a restart"),
)

CELLS: Final = (
    Column("cell", "str", "", "one leaf of the grid: one model at the end"),
    Column("recipe", "str", "", "its recipe"),
    Column("size", "str", "", "name of the model's shape"),
    Column("code_percent", "float64", "percent", "the grid's proportion of code; empty for a recipe that fixes all its proportions"),
    Column("init_seed", "Int64", "", "seed of the initialisation"),
    Column("data_seed", "Int64", "", "seed of the data order"),
    Column("stage", "str", "", "name of the stage in the recipe"),
    Column("stage_kind", "str", "", "pretrain, continue or cooldown"),
    Column("stage_number", "Int64", "", "place of the stage in the recipe, from 1"),
    *_TASK,
    Column("is_result", "bool", "", "whether this train task's end is the stage's result"),
    Column("state", "str", "", f"{DONE} when the task's record is there, else {MISSING}"),
)


def runs_frame(plan: Plan, records: Records) -> "pd.DataFrame":
    """One row a digest and metric, in the order of the plan; tasks without a record have none. Columns: RUNS."""
    return _table(RUNS, _runs(plan, records))


def cells_frame(plan: Plan, records: Records) -> "pd.DataFrame":
    """One row a cell, stage and task, in the order of the plan, done or missing. Columns: CELLS."""
    groups = {source.name: source.group for source in plan.sources}
    return _table(CELLS, (row for cell in plan.cells for row in _cell_rows(cell, groups, records)))


def rows_of(table: "pd.DataFrame") -> list[Row]:
    """The rows as dictionaries, for code that goes through them one by one."""
    return [dict(zip(table.columns, values, strict=True)) for values in table.itertuples(index=False, name=None)]


def write_tables(runs: "pd.DataFrame", cells: "pd.DataFrame", out: Path) -> None:
    """runs.parquet, cells.parquet (unit and meaning in each column's metadata) and cells.csv in the folder `out`."""
    _write_parquet(runs, RUNS, out / "runs.parquet")
    _write_parquet(cells, CELLS, out / "cells.parquet")
    cells.to_csv(out / "cells.csv", index=False, lineterminator="\n")


def _table(columns: tuple[Column, ...], rows: Iterable[Row]) -> "pd.DataFrame":
    import pandas as pd

    everything = list(rows)
    return pd.DataFrame({column.name: pd.Series(_values(column, everything), dtype=column.dtype) for column in columns})


def _values(column: Column, rows: list[Row]) -> list[Any]:
    empty = "" if column.dtype == "str" else None
    return [row.get(column.name, empty) for row in rows]


def _write_parquet(table: "pd.DataFrame", columns: tuple[Column, ...], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [arrow.schema.field(c.name).with_metadata({"unit": c.unit, "meaning": c.meaning}) for c in columns]
    pq.write_table(arrow.cast(pa.schema(fields, metadata=arrow.schema.metadata)), path)


def _runs(plan: Plan, records: Records) -> Iterator[Row]:
    places = {**_sources_places(plan), **_stage_places(plan)}
    for task in plan.tasks.values():
        record = records.get(task.digest)
        if record is None:
            continue
        place = places.get(task.digest, {})
        facts = {**place, **_size_facts(plan, task, place), **_work_facts(record)}
        for metric, value in record.results.items():
            if not isinstance(value, str):
                yield {**facts, "digest": task.digest, "kind": str(task.kind), "metric": metric, "value": float(value)}


def _sources_places(plan: Plan) -> dict[str, Row]:
    return {source.digest: {"source": source.name, "source_group": source.group} for source in reversed(plan.sources)}


def _stage_places(plan: Plan) -> dict[str, Row]:
    """What the first stage that ends with a task, or scores its end with it, says about that task."""
    groups = {source.name: source.group for source in plan.sources}
    places: dict[str, Row] = {}
    for cell in plan.cells:
        for stage in cell.stages:
            facts = {"size": cell.size, **_stage_facts(stage)}
            places.setdefault(stage.result, facts)
            for evaluation in stage.evaluations:
                scored = {"suite": evaluation.suite, "source": evaluation.source, "source_group": groups.get(evaluation.source, "")}
                places.setdefault(evaluation.digest, {**facts, **scored})
    return places


def _stage_facts(stage: CellStage) -> Row:
    return {
        "stage_tokens": stage.tokens,
        "chain_tokens": stage.chain_tokens,
        "steps": stage.steps,
        "stage_code_percent": float(stage.code_percent),
        "chain_code_percent": float(stage.chain_code_percent),
    }


def _size_facts(plan: Plan, task: PlannedTask, place: Row) -> Row:
    size, chain_tokens = place.get("size") or task.size, place.get("chain_tokens")
    shape = plan.shapes.get(size)
    if shape is None:
        return {}
    flops = None if chain_tokens is None else float(flops_palm(shape, plan.window_of(task)) * chain_tokens)
    return {"size": size, "n_body": shape.body, "n": shape.n, "n_total": shape.total, "flops_palm": flops}


def _work_facts(record: Record) -> Row:
    return {
        "bytes": record.results.get("bytes"),
        "attempts": len(record.attempts),
        "seconds": sum(seconds(attempt) for attempt in record.attempts),
        "cpu_seconds": sum(attempt.cpu_seconds for attempt in record.attempts),
        "gpu_seconds": sum(attempt.gpu_seconds for attempt in record.attempts),
        "tokens_lost": sum(attempt.tokens_lost for attempt in record.attempts),
    }


def seconds(attempt: Attempt) -> float:
    """From start to end, by the clock of the machine that it ran on."""
    return (datetime.fromisoformat(attempt.end) - datetime.fromisoformat(attempt.start)).total_seconds()


def _cell_rows(cell: Cell, groups: Mapping[str, str], records: Records) -> Iterator[Row]:
    for number, stage in enumerate(cell.stages, 1):
        place = {
            "cell": cell.name, "recipe": cell.recipe, "size": cell.size,
            "code_percent": None if cell.code_percent is None else float(cell.code_percent),
            "init_seed": cell.init_seed, "data_seed": cell.data_seed,
            "stage": stage.name, "stage_kind": stage.kind, "stage_number": number,
        }  # fmt: skip
        for row in (*_train_rows(stage), *_evaluate_rows(stage, groups)):
            yield {**place, **row, "state": DONE if row["digest"] in records else MISSING}


def _train_rows(stage: CellStage) -> Iterator[Row]:
    for digest in stage.trains:
        yield {"kind": str(TaskKind.TRAIN), "digest": digest, "is_result": digest == stage.result}


def _evaluate_rows(stage: CellStage, groups: Mapping[str, str]) -> Iterator[Row]:
    for evaluation in stage.evaluations:
        yield {
            "kind": str(TaskKind.EVALUATE), "digest": evaluation.digest, "suite": evaluation.suite,
            "source": evaluation.source, "source_group": groups.get(evaluation.source, ""), "is_result": False,
        }  # fmt: skip
