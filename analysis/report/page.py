"""Writes the report of a study into a folder: one page, its figures, its tables.

`scaling-study report` and the end of `run` call `write_report`. Equal plans and records give equal bytes: nothing here reads a clock.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from analysis.figures.colours import PAGE, Colour, theme_css
from analysis.figures.curves import NAME as LOSS_NAME
from analysis.figures.curves import loss_figure
from analysis.figures.panels import NAMES, Figure, Strip, figures
from analysis.figures.plot import colours_of, panel_svg, write_figure
from analysis.laws.trends import NoTrend
from analysis.tables import listing
from analysis.tables.facts import cell_states, facts
from analysis.tables.frame import CELLS, RUNS, Records, cells_frame, runs_frame, write_tables
from analysis.tables.scores import chance, questions, scores
from orchestrator.contract.plan import Plan, digest_of_plan
from orchestrator.contract.record import Record
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import Damaged, MissingExtra, ReportNotWritten
from orchestrator.store import Store
from orchestrator.store.records import read_record

_READERS: Final = 16
"""Records asked for at once: a bucket answers each in tens of milliseconds, a folder does not mind."""


@dataclass(frozen=True, slots=True)
class _PageStrip:
    title: str
    panels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _PageFigure:
    """A figure for the template, with panels as <svg> elements. `folded`: collapsed until the reader opens it."""

    name: str
    title: str
    caption: str
    folded: bool
    strips: tuple[_PageStrip, ...]


def write_report(store: Store, plan: Plan, out: Path) -> Path:
    """Report of what the store holds of `plan`: report.html, figures/, runs.parquet, cells.parquet, cells.csv; the page's path.

    A study without a single record has a report too. A damaged record counts as missing and is named. Raises MissingExtra,
    ReportNotWritten.
    """
    records, damaged = read_records(store, plan)
    _ask_for_the_extra()
    losses = loss_figure(store, plan, records)
    return write_report_of(plan, records, out, damaged=damaged, more=[losses] if losses else [])


def read_records(store: Store, plan: Plan) -> tuple[dict[str, Record], list[str]]:
    """The records of the plan's tasks that are there, in its order, and what is wrong with those that cannot be read."""
    with ThreadPoolExecutor(_READERS) as pool:
        answers = list(pool.map(lambda digest: _read(store, digest), plan.tasks))
    found = {answer.digest: answer for answer in answers if isinstance(answer, Record)}
    return found, [answer for answer in answers if isinstance(answer, str)]


def write_report_of(plan: Plan, records: Records, out: Path, *, damaged: Sequence[str] = (), more: Sequence[Figure] = ()) -> Path:
    """`write_report` without a store. `more`: figures after the others. Raises MissingExtra, ReportNotWritten."""
    _ask_for_the_extra()
    try:
        return _write(plan, records, out, damaged, more)
    except OSError as problem:
        raise ReportNotWritten(
            f"{out} cannot be written ({problem}); `scaling-study report FILE --out DIR` writes it elsewhere"
        ) from problem


def _write(plan: Plan, records: Records, out: Path, damaged: Sequence[str], more: Sequence[Figure]) -> Path:
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    runs, cells = runs_frame(plan, records), cells_frame(plan, records)
    write_tables(runs, cells, out)
    found = scores(runs, cells)
    drawn = [*figures(found, chance(runs), questions(runs)), *more]
    for name in (*NAMES, LOSS_NAME):
        # a figure of the last report that this one does not have would pass for one of this
        (folder / f"{name}.svg").unlink(missing_ok=True)
    for figure in drawn:
        write_figure(figure, folder)
    results = listing.results(plan, runs, cells)
    page = _page(
        {
            "plan": plan,
            "plan_digest": digest_of_plan(plan),
            "windows": sorted({plan.window_of(task) for task in plan.tasks.values() if task.kind == TaskKind.TRAIN}),
            "facts": facts(plan, records),
            "states": cell_states(plan, records),
            "results": results,
            "trends": listing.trends(found),
            "figures": [_for_the_page(figure, results.anchors) for figure in drawn],
            "damaged": damaged,
            "theme": theme_css(_colours(drawn)),
            "columns": {"runs.parquet": RUNS, "cells.parquet and cells.csv": CELLS},
        }
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _read(store: Store, digest: str) -> Record | str | None:
    try:
        return read_record(store, digest)
    except Damaged as problem:
        return str(problem)


def _for_the_page(figure: Figure, anchors: dict[str, str]) -> _PageFigure:
    numbers = count(1)

    def draw(strip: Strip) -> _PageStrip:
        return _PageStrip(strip.title, tuple(panel_svg(panel, f"{figure.name}-{next(numbers)}", anchors) for panel in strip.panels))

    return _PageFigure(
        figure.name, figure.title, figure.caption, figure.name.startswith("earlier-"), tuple(draw(strip) for strip in figure.strips)
    )


def _colours(drawn: Sequence[Figure]) -> list[Colour]:
    of_panels = (colour for figure in drawn for strip in figure.strips for panel in strip.panels for colour in colours_of(panel))
    return [*PAGE.values(), *of_panels]


def _page(content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("analysis.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(amount=listing.amount, duration=listing.duration, signed=listing.signed)
    environment.globals.update(seed=listing.seed, palette=PAGE)
    environment.tests["no_trend"] = lambda found: isinstance(found, NoTrend)
    return environment.get_template("report.html.j2").render(content)


def _ask_for_the_extra() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(f"a report needs {problem.name}: pip install 'scaling-study[analysis]'") from problem
