"""The rows of the report's tables, and the number formats of the page.

`page` passes them to its template. Missing values stay in the table and are marked as missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from analysis.figures.panels import GROUPS
from analysis.laws.trends import Measurement, NoTrend, Trend, fit_trend
from analysis.tables.frame import DONE, rows_of
from analysis.tables.scores import SCORE_METRICS, Score, last_scored_stages
from orchestrator.contract.formatting import format_count
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE, TaskKind

if TYPE_CHECKING:
    import pandas as pd

MINUS_SIGN: Final = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class ResultValue:
    """The result of one evaluate task.

    `text`: "" if the record is missing. `anchor`: HTML id of the table cell, "" if the record is missing or another cell has the id.
    """

    text: str
    digest: str
    anchor: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A cell after one of its stages.

    `chain_code`: percentage of code in all tokens read so far. `values`: one per column of the table, None if the stage lacks that
    evaluation.
    """

    cell: str
    stage: str
    chain_code: str
    tokens: str
    values: tuple[ResultValue | None, ...]


@dataclass(frozen=True, slots=True)
class ResultTable:
    """All results. `columns`: (suite, source). `anchors`: digest -> HTML id, the link targets of the dots in figures."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[ResultRow, ...]
    anchors: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrendRow:
    """A trend over model sizes at one recipe and code percent. `models`: the recipe and the scored stage, for display."""

    models: str
    group: str
    code_percent: str
    trend: Trend | NoTrend


def result_table(plan: Plan, runs: "pd.DataFrame", cells: "pd.DataFrame") -> ResultTable:
    """Return one row per cell and evaluated stage, in the order of the plan."""
    texts = _texts(runs)
    columns = tuple(dict.fromkeys((e.suite, e.source) for cell in plan.cells for stage in cell.stages for e in stage.evaluations))
    evaluated = cells[cells.kind == str(TaskKind.EVALUATE)]
    states = dict(zip(evaluated.digest, evaluated.state, strict=True))
    anchors: dict[str, str] = {}
    rows = []
    for cell in plan.cells:
        for stage in (stage for stage in cell.stages if stage.evaluations):
            digests = {(e.suite, e.source): e.digest for e in stage.evaluations}
            values = tuple(_value(digests.get(column), texts, states, anchors) for column in columns)
            code, tokens = f"{float(stage.chain_code_percent):.3g}", format_count(stage.chain_tokens)
            rows.append(ResultRow(cell.name, stage.name, code, tokens, values))
    return ResultTable(columns, tuple(rows), anchors)


def _texts(runs: "pd.DataFrame") -> dict[str, str]:
    evaluated = runs[(runs.kind == str(TaskKind.EVALUATE)) & runs.metric.isin(SCORE_METRICS)]
    texts: dict[str, str] = {}
    for run in rows_of(evaluated):
        texts.setdefault(run["digest"], format_metric(run["metric"], run["value"]))
    return texts


def _value(digest: str | None, texts: dict[str, str], states: dict[Any, Any], anchors: dict[str, str]) -> ResultValue | None:
    if digest is None:
        return None
    if states.get(digest) != DONE:
        return ResultValue("", digest, "")
    anchor = "" if digest in anchors else f"result-{digest[:16]}"
    anchors.setdefault(digest, anchor)
    return ResultValue(texts.get(digest, "no score"), digest, anchor)


def trend_rows(scores: Sequence[Score]) -> list[TrendRow]:
    """Return the trends of bits per byte over size after each recipe's last scored stage, by group and code percent."""
    bits = [score for score in scores if score.metric == BITS_PER_BYTE and score.group in GROUPS]
    rows = []
    for recipe, number, stage in last_scored_stages(bits):
        of_stage = [score for score in bits if (score.recipe, score.stage_number) == (recipe, number)]
        for group in GROUPS:
            own = [score for score in of_stage if score.group == group]
            for code in sorted({s.code_percent for s in own}, key=lambda code: -1.0 if code is None else code):
                points = [Measurement(s.seed, s.n, s.value) for s in own if s.code_percent == code]
                rows.append(TrendRow(f"{recipe}, after {stage}", group, "fixed" if code is None else f"{code:g}", fit_trend(points)))
    return rows


def format_metric(metric: str, value: float) -> str:
    """Format a result: accuracy in percent, bits per byte with three decimals."""
    return f"{value:.1%}".replace("%", " %") if metric == ACCURACY else f"{value:.3f}"


def format_signed(value: float) -> str:
    """Format a number with four decimals and a sign."""
    return f"{value:+.4f}".replace("-", MINUS_SIGN)


def format_seeds(init: int, data: int) -> str:
    """Format the two seeds of a cell as one number if they are equal."""
    return str(init) if init == data else f"init {init}, data {data}"


def format_compute_time(seconds: float) -> str:
    """Format CPU or GPU time: 1.25 s, 45 min, 1,250 h 3 min.

    Hours are not converted to days, so that GPU-hours can be read off; `format_duration` of the contract formats elapsed time.
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
