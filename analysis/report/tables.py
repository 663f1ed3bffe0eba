"""The rows of the report's tables: results with their digests, trends, and numbers written for people.

`report` hands them to its template. A value that is not there is a hole with a name, never an empty place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from analysis.figures.panels import GROUPS
from analysis.laws.trends import Measured, NoTrend, Trend, trend
from analysis.tables.frame import DONE, rows_of
from analysis.tables.scores import SCORED, Score, last_places
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE, TaskKind

if TYPE_CHECKING:
    import pandas as pd

_UNITS: Final = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Value:
    """One result of one evaluate task. `text` is empty when the task is missing; `anchor` is the id of the place in the page."""

    text: str
    digest: str
    anchor: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A cell after a stage. `chain_code`: percent of all tokens read so far.

    `values` in the order of the table's columns, None where the stage is not scored so.
    """

    cell: str
    stage: str
    chain_code: str
    tokens: str
    values: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """`columns`: suite and source. `anchors`: digest -> id of the place that shows it, for dots in figures."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[ResultRow, ...]
    anchors: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrendRow:
    place: str
    group: str
    code: str
    found: Trend | NoTrend


def results(plan: Plan, runs: "pd.DataFrame", cells: "pd.DataFrame") -> Results:
    """One row a cell and scored stage, in the order of the plan."""
    texts = _texts(runs)
    columns = tuple(dict.fromkeys((e.suite, e.source) for cell in plan.cells for stage in cell.stages for e in stage.evaluations))
    scored = cells[cells.kind == str(TaskKind.EVALUATE)]
    states = dict(zip(scored.digest, scored.state, strict=True))
    anchors: dict[str, str] = {}
    rows = []
    for cell in plan.cells:
        for stage in (stage for stage in cell.stages if stage.evaluations):
            own = {(e.suite, e.source): e.digest for e in stage.evaluations}
            values = tuple(_value(own.get(column), texts, states, anchors) for column in columns)
            rows.append(ResultRow(cell.name, stage.name, f"{float(stage.chain_code_percent):.3g}", amount(stage.chain_tokens), values))
    return Results(columns, tuple(rows), anchors)


def _texts(runs: "pd.DataFrame") -> dict[str, str]:
    evaluated = runs[(runs.kind == str(TaskKind.EVALUATE)) & runs.metric.isin(SCORED)]
    texts: dict[str, str] = {}
    for run in rows_of(evaluated):
        texts.setdefault(run["digest"], measured(run["metric"], run["value"]))
    return texts


def _value(digest: str | None, texts: dict[str, str], states: dict[Any, Any], anchors: dict[str, str]) -> Value | None:
    if digest is None:
        return None
    if states.get(digest) != DONE:
        return Value("", digest, "")
    anchor = "" if digest in anchors else f"result-{digest[:16]}"
    anchors.setdefault(digest, anchor)
    return Value(texts.get(digest, "no score"), digest, anchor)


def trends(found: Sequence[Score]) -> list[TrendRow]:
    """The slope of bits per byte over size, after every recipe's last scored stage, for each group and code percent."""
    bits = [score for score in found if score.metric == BITS_PER_BYTE and score.group in GROUPS]
    rows = []
    for recipe, number, stage in last_places(bits):
        here = [score for score in bits if (score.recipe, score.stage_number) == (recipe, number)]
        for group in GROUPS:
            own = [score for score in here if score.group == group]
            for code in sorted({s.code_percent for s in own}, key=lambda code: -1.0 if code is None else code):
                points = [Measured(s.seed, s.n, s.value) for s in own if s.code_percent == code]
                rows.append(TrendRow(f"{recipe}, after {stage}", group, "fixed" if code is None else f"{code:g}", trend(points)))
    return rows


def measured(metric: str, value: float) -> str:
    """A result for people: accuracies in percent, bits per byte with three decimals."""
    return f"{value:.1%}".replace("%", " %") if metric == ACCURACY else f"{value:.3f}"


def signed(value: float) -> str:
    """Four decimals and a sign, a true minus."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def seed(init: int, data: int) -> str:
    """One number where both seeds are the same."""
    return str(init) if init == data else f"init {init}, data {data}"


def amount(number: float) -> str:
    """Three significant digits and a letter: 512k, 20.5M."""
    for unit, letter in _UNITS:
        if number >= unit * 0.9995:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds below two minutes."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {rest} min" if hours else f"{rest} min"
