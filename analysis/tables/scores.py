"""What the models reached: one score a cell, stage, suite and group of sources, read from the tables of `frame`.

`panels` draws them, `results` lists them. Several sources of one group make one score: bits per byte weighted by the bytes that were
scored, which is what all their documents together would give; accuracy as the plain mean of the sources. A score exists when every one of
its sources has been scored; a hole is never averaged over.
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

SCORED: Final = (BITS_PER_BYTE, ACCURACY)
"""The metrics that say how good a model is; the other results of an evaluation say what they were divided by."""

CONTINUATION: Final = "continuation"
"""The suite that asks for the true continuation of a held-out document among several."""


@dataclass(frozen=True, slots=True)
class Score:
    """`group` is "" for suites of named benchmarks. `n`: parameters without the input embedding. `digests`: of the evaluate tasks."""

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


def scores(runs: "pd.DataFrame", cells: "pd.DataFrame") -> list[Score]:
    """Every score that is whole, in the order of the plan."""
    measured: dict[str, list[Row]] = {}
    for run in rows_of(runs[(runs.kind == str(TaskKind.EVALUATE)) & runs.metric.isin(SCORED)]):
        measured.setdefault(run["digest"], []).append(run)
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows_of(cells[cells.kind == str(TaskKind.EVALUATE)]):
        together.setdefault((row["cell"], row["stage_number"], row["suite"], row["source_group"]), []).append(row)
    return [score for rows in together.values() for score in _scores_of(rows, measured)]


def _scores_of(rows: list[Row], measured: dict[str, list[Row]]) -> list[Score]:
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        for run in measured.get(row["digest"], []):
            by_metric.setdefault(run["metric"], []).append(run)
    return [_score(rows[0], metric, found) for metric, found in by_metric.items() if len(found) == len(rows)]


def _score(row: Row, metric: str, found: list[Row]) -> Score:
    return Score(
        cell=row["cell"], recipe=row["recipe"], size=row["size"], n=int(found[0]["n"]),
        code_percent=None if isnan(row["code_percent"]) else float(row["code_percent"]),
        chain_code_percent=float(found[0]["chain_code_percent"]), seed=(int(row["init_seed"]), int(row["data_seed"])),
        stage=row["stage"], stage_number=int(row["stage_number"]), suite=row["suite"], group=row["source_group"], metric=metric,
        value=_together(metric, found), digests=tuple(run["digest"] for run in found),
    )  # fmt: skip


def _together(metric: str, found: list[Row]) -> float:
    if len(found) == 1:
        return float(found[0]["value"])
    weights = [_bytes_scored(run) if metric == BITS_PER_BYTE else 1 for run in found]
    return float(sum(run["value"] * weight for run, weight in zip(found, weights, strict=True)) / sum(weights))


def _bytes_scored(run: Row) -> int:
    import pandas as pd

    if pd.isna(run["bytes"]) or run["bytes"] <= 0:
        raise ContractError(
            f"tasks/{run['digest']}/record.json has {BITS_PER_BYTE} of {run['source']!r} but no `bytes` above 0 to weigh it with; "
            "`scaling-study store verify` reports whether the record is damaged"
        )
    return int(run["bytes"])


def chance(runs: "pd.DataFrame") -> float | None:
    """How often a blind guess is right in the continuation suite; None when its records do not agree on the number of choices."""
    choices = runs[(runs.suite == CONTINUATION) & (runs.metric == "choices")].value.unique()
    return 1 / float(choices[0]) if len(choices) == 1 else None


def questions(runs: "pd.DataFrame") -> tuple[int, int] | None:
    """Fewest and most items that an evaluation of the continuation suite has; None when no record says it."""
    items = runs[(runs.suite == CONTINUATION) & (runs.metric == "items")].value
    return (int(items.min()), int(items.max())) if len(items) else None


Place: TypeAlias = tuple[str, int, str]
"""Recipe, number of the stage in it, name of the stage."""


def places(found: Sequence[Score]) -> list[Place]:
    """Where scores were taken, in the order of the plan."""
    return list(dict.fromkeys((score.recipe, score.stage_number, score.stage) for score in found))


def last_places(found: Sequence[Score]) -> list[Place]:
    """Of every recipe the last stage with scores."""
    last: dict[str, Place] = {}
    for place in places(found):
        last[place[0]] = max(place, last.get(place[0], place), key=lambda p: p[1])
    return list(last.values())
