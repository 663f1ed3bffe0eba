"""Write the report of a study to a folder: one HTML page, figures and table files.

`scaling-study report` and the end of `run` call `write_report`. Equal plans and records give equal bytes: the report does not contain the
time at which it was written.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from analysis.figures.colours import PAGE_COLOURS, Colour, theme_css
from analysis.figures.curves import FIGURE_NAME, loss_figure
from analysis.figures.panels import FIGURE_NAMES, Figure, FigureRow, score_figures
from analysis.figures.plot import colours_of, panel_svg, write_figure
from analysis.laws.trends import NoTrend
from analysis.report.tables import format_compute_time, format_seeds, format_signed, result_table, trend_rows
from analysis.tables.frame import CELL_COLUMNS, RUN_COLUMNS, Records, cells_frame, runs_frame, write_tables
from analysis.tables.scores import chance_accuracy, compute_scores, item_counts
from analysis.tables.summary import cell_states, summarize_study
from orchestrator.contract.formatting import format_count
from orchestrator.contract.plan import Plan, digest_of_plan
from orchestrator.contract.record import Record
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import Damaged, MissingExtra, ReportNotWritten
from orchestrator.store import Store
from orchestrator.store.addresses import record_key
from orchestrator.store.records import done, read_record

_READ_THREADS: Final = 16
"""Number of records read in parallel: a bucket takes tens of milliseconds per record."""


@dataclass(frozen=True, slots=True)
class _PageRow:
    title: str
    panels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _PageFigure:
    """A figure for the template. Its panels are <svg> elements; `collapsed`: shown only after a click on its title."""

    name: str
    title: str
    caption: str
    collapsed: bool
    rows: tuple[_PageRow, ...]


def write_report(store: Store, plan: Plan, out: Path) -> Path:
    """Write report.html, figures/, runs.parquet, cells.parquet and cells.csv to `out`; return the path of the page.

    A study without records also gets a report. Raises MissingExtra, ReportNotWritten.
    """
    return write_report_with_holes(store, plan, out)[0]


def write_report_with_holes(store: Store, plan: Plan, out: Path) -> tuple[Path, list[str]]:
    """Write the report as `write_report`; return the path of the page and a message per damaged or lost record.

    A record is lost if its task was done but the record is missing now. The report lists these records and counts them as missing.
    """
    records, holes = read_records(store, plan)
    _require_extra()
    losses = loss_figure(store, plan, records)
    page = write_report_from_records(plan, records, out, damaged=holes, extra_figures=[losses] if losses else [])
    return page, holes


def read_records(store: Store, plan: Plan) -> tuple[dict[str, Record], list[str]]:
    """Return the records of the plan's tasks, in its order, and a message per record that is damaged or lost since its task was done."""
    marked = done(store)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        answers = list(pool.map(lambda digest: _read(store, digest, digest in marked), plan.tasks))
    records = {answer.digest: answer for answer in answers if isinstance(answer, Record)}
    holes = [_hole(plan, digest, answer) for digest, answer in zip(plan.tasks, answers, strict=True) if isinstance(answer, str)]
    return records, holes


def _hole(plan: Plan, digest: str, why: str) -> str:
    return f"{plan.tasks[digest].kind} {plan.tasks[digest].label}: {why}"


def write_report_from_records(
    plan: Plan, records: Records, out: Path, *, damaged: Sequence[str] = (), extra_figures: Sequence[Figure] = ()
) -> Path:
    """Write a report as `write_report`, from records in memory. `extra_figures` follow the figures of scores.

    Raises MissingExtra, ReportNotWritten.
    """
    _require_extra()
    try:
        return _write(plan, records, out, damaged, extra_figures)
    except OSError as problem:
        raise ReportNotWritten(
            f"cannot write the report to {out}: {problem}. Name another folder: `scaling-study report FILE --out DIR`"
        ) from problem


def _write(plan: Plan, records: Records, out: Path, damaged: Sequence[str], extra_figures: Sequence[Figure]) -> Path:
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    write_tables(runs, cells, out)
    scores = compute_scores(runs, cells)
    figures = [*score_figures(scores, chance_accuracy(runs), item_counts(runs)), *extra_figures]
    for name in (*FIGURE_NAMES, FIGURE_NAME):
        # a figure left over from an earlier report would look like part of this one
        (folder / f"{name}.svg").unlink(missing_ok=True)
    for figure in figures:
        write_figure(figure, folder)
    results = result_table(plan, runs, cells)
    page = _page(
        {
            "plan": plan,
            "plan_digest": digest_of_plan(plan),
            "windows": sorted({plan.window_of(task) for task in plan.tasks.values() if task.kind == TaskKind.TRAIN}),
            "summary": summarize_study(plan, records),
            "states": cell_states(plan, records),
            "results": results,
            "trends": trend_rows(scores),
            "figures": [_page_figure(figure, results.anchors) for figure in figures],
            "damaged": damaged,
            "theme": theme_css(_colours(figures)),
            "columns": {"runs.parquet": RUN_COLUMNS, "cells.parquet and cells.csv": CELL_COLUMNS},
        }
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _read(store: Store, digest: str, is_marked: bool) -> Record | str | None:
    try:
        record = read_record(store, digest)
    except Damaged as problem:
        return str(problem)
    if record is None and is_marked:
        return f"{record_key(digest)} is missing, although the task is marked as done; the next run repeats the task"
    return record


def _page_figure(figure: Figure, anchors: dict[str, str]) -> _PageFigure:
    numbers = count(1)

    def draw(row: FigureRow) -> _PageRow:
        return _PageRow(row.title, tuple(panel_svg(panel, f"{figure.name}-{next(numbers)}", anchors) for panel in row.panels))

    collapsed = figure.name.startswith("earlier-")
    return _PageFigure(figure.name, figure.title, figure.caption, collapsed, tuple(draw(row) for row in figure.rows))


def _colours(figures: Sequence[Figure]) -> list[Colour]:
    of_panels = (colour for figure in figures for row in figure.rows for panel in row.panels for colour in colours_of(panel))
    return [*PAGE_COLOURS.values(), *of_panels]


def _page(content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("analysis.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(format_count=format_count, format_compute_time=format_compute_time, format_signed=format_signed)
    environment.globals.update(format_seeds=format_seeds, page_colours=PAGE_COLOURS)
    environment.tests["no_trend"] = lambda value: isinstance(value, NoTrend)
    return environment.get_template("report.html.j2").render(content)


def _require_extra() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(f"reports require {problem.name}: pip install 'scaling-study[analysis]'") from problem
