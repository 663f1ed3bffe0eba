"""Scores of the models: one value per cell, stage, suite and group of sources, computed from the tables of `frame`.

The figures draw them and the report fits trends to them. A group with several sources has one score: for bits per byte the mean weighted by
scored bytes, which equals the value over all their documents; for accuracy the plain mean. A group has no score until all its sources do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from analysis.laws.trends import Seed
from analysis.tables.frame import Row, rows_of
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE, TaskKind
from orchestrator.errors import ContractError

if TYPE_CHECKING:
    import pandas as pd

SCORE_METRICS: Final = (BITS_PER_BYTE, ACCURACY)
"""The metrics that rate a model; the other results of an evaluation are counts."""

CONTINUATION: Final = "continuation"
"""The suite in which a model chooses the true continuation of a held-out document among several."""


@dataclass(frozen=True, slots=True)
class Score:
    """The value of one metric for a cell after a stage.

    `n`: parameters without the input embedding. `group`: "" for suites of named benchmarks. `digests`: the evaluate tasks.
    """

    cell: str
    recipe: str
    size: str
    n: int
    code_percent: float | None
    chain_code_percent: float
    seed: Seed
    stage: str
    stage_number: int
    suite: str
    group: str
    metric: str
    value: float
    digests: tuple[str, ...]


def compute_scores(runs: "pd.DataFrame", cells: "pd.DataFrame") -> list[Score]:
    """Return every complete score, in the order of the plan.

    Raises ContractError if a record lacks the bytes that weight its bits per byte.
    """
    by_digest: dict[str, list[Row]] = {}
    for run in rows_of(runs[(runs.kind == str(TaskKind.EVALUATE)) & runs.metric.isin(SCORE_METRICS)]):
        by_digest.setdefault(run["digest"], []).append(run)
    by_group: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows_of(cells[cells.kind == str(TaskKind.EVALUATE)]):
        by_group.setdefault((row["cell"], row["stage_number"], row["suite"], row["source_group"]), []).append(row)
    return [score for rows in by_group.values() for score in _scores_of(rows, by_digest)]


def _scores_of(rows: list[Row], by_digest: dict[str, list[Row]]) -> list[Score]:
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        for run in by_digest.get(row["digest"], []):
            by_metric.setdefault(run["metric"], []).append(run)
    return [_score(rows[0], metric, runs) for metric, runs in by_metric.items() if len(runs) == len(rows)]


def _score(row: Row, metric: str, runs: list[Row]) -> Score:
    return Score(
        cell=row["cell"], recipe=row["recipe"], size=row["size"], n=int(runs[0]["n"]),
        code_percent=None if isnan(row["code_percent"]) else float(row["code_percent"]),
        chain_code_percent=float(runs[0]["chain_code_percent"]), seed=(int(row["init_seed"]), int(row["data_seed"])),
        stage=row["stage"], stage_number=int(row["stage_number"]), suite=row["suite"], group=row["source_group"], metric=metric,
        value=_combined(metric, runs), digests=tuple(run["digest"] for run in runs),
    )  # fmt: skip


def _combined(metric: str, runs: list[Row]) -> float:
    if len(runs) == 1:
        return float(runs[0]["value"])
    weights = [_bytes_scored(run) if metric == BITS_PER_BYTE else 1 for run in runs]
    return float(sum(run["value"] * weight for run, weight in zip(runs, weights, strict=True)) / sum(weights))


def _bytes_scored(run: Row) -> int:
    import pandas as pd

    if pd.isna(run["bytes"]) or run["bytes"] <= 0:
        raise ContractError(
            f"tasks/{run['digest']}/record.json: {BITS_PER_BYTE} of source {run['source']!r} has no positive `bytes` to weight it with; "
            "`scaling-study store verify` checks whether the record is damaged"
        )
    return int(run["bytes"])


def chance_accuracy(runs: "pd.DataFrame") -> float | None:
    """Return the accuracy of a random choice in the continuation suite.

    None if there are no records or they differ in the number of choices.
    """
    choices = runs[(runs.suite == CONTINUATION) & (runs.metric == "choices")].value.unique()
    return 1 / float(choices[0]) if len(choices) == 1 else None


def item_counts(runs: "pd.DataFrame") -> tuple[int, int] | None:
    """Return the smallest and largest number of items of a continuation evaluation.

    None if no record has it.
    """
    items = runs[(runs.suite == CONTINUATION) & (runs.metric == "items")].value
    return (int(items.min()), int(items.max())) if len(items) else None


StageKey: TypeAlias = tuple[str, int, str]
"""(recipe, number of the stage in the recipe, name of the stage)"""


def scored_stages(scores: Sequence[Score]) -> list[StageKey]:
    """Return the stages that have scores, in the order of the plan."""
    return list(dict.fromkeys((score.recipe, score.stage_number, score.stage) for score in scores))


def last_scored_stages(scores: Sequence[Score]) -> list[StageKey]:
    """Return the last stage with scores of every recipe."""
    last: dict[str, StageKey] = {}
    for stage in scored_stages(scores):
        last[stage[0]] = max(stage, last.get(stage[0], stage), key=lambda key: key[1])
    return list(last.values())
