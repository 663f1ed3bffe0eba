import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.report.page import write_report, write_report_from_records
from orchestrator.errors import ReportNotWritten
from orchestrator.store.memory import in_memory_store
from tests.analysis.synthetic_study import (
    BALANCED_TO_TEXT,
    FROM_SCRATCH,
    SyntheticRecipe,
    SyntheticStudy,
    store_records,
    without_evaluations,
)

STUDY = SyntheticStudy(sizes=("0.03M", "0.09M", "0.24M"), code_percents=("0", "50"), seeds=(1, 2))
ONE = SyntheticStudy(sizes=("0.03M",), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,), suites=("bpb",))
VOID = {"meta", "br", "link", "img", "use", "path"}


class Page(HTMLParser):
    """A parsed page: its text, ids, links and unclosed elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.open = "", list[str](), list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("href", "xlink:href", "src") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a study in which one cell has no evaluations."""
    store, plan = in_memory_store(), STUDY.plan()
    store_records(store, plan, STUDY.records(plan, without_evaluations(plan, ["from-scratch/0.09M/c50/s2"])))
    return write_report(store, plan, tmp_path_factory.mktemp("report"))


def test_the_folder_contains_page_tables_and_figures(written: Path) -> None:
    assert written.name == "report.html"
    files = {str(path.relative_to(written.parent)) for path in written.parent.rglob("*") if path.is_file()}
    names = ("bits-per-byte-by-size", "bits-per-byte-by-code", "continuation-by-size", "training-loss")
    earlier = ("earlier-bits-per-byte-by-size", "earlier-bits-per-byte-by-code")
    tables = {"report.html", "runs.parquet", "cells.parquet", "cells.csv"}
    assert files == tables | {f"figures/{name}.svg" for name in (*names, *earlier)}


def test_the_page_is_well_formed_and_self_contained(written: Path) -> None:
    page = page_of(written)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link for link in page.links if not link.startswith("#")} == set()
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "<script" not in written.read_text()
    assert not re.findall(r"@import|url\((?!#)", written.read_text())


def test_every_result_shows_its_digest_and_every_dot_links_to_a_result(written: Path) -> None:
    html = written.read_text()
    shown = set(re.findall(r'<code title="([0-9a-f]{64})">', html))
    plan = STUDY.plan()
    assert shown == {e.digest for cell in plan.cells for stage in cell.stages for e in stage.evaluations}
    anchors = re.findall(r'<a href="#(result-[0-9a-f]+)"><title>', html)
    assert set(anchors) <= {f"result-{digest[:16]}" for digest in shown}
    assert len(anchors) > 100
    assert "<a><title>" not in html
    assert "scaling-study explain FILE CELL" in html


def test_a_missing_evaluation_is_listed_with_cell_and_task(written: Path) -> None:
    plan = STUDY.plan()
    missing = plan.cell("from-scratch/0.09M/c50/s2").stages[0].evaluations[0]
    text = page_of(written).text
    assert "1 of 18 cells is incomplete." in text
    assert f"bpb of prose after pretrain ({missing.digest[:12]})" in text
    assert f'<span class="missing">missing</span><code title="{missing.digest}">' in written.read_text()
    assert "17 of 18" in text


def test_equal_records_give_equal_bytes_in_another_process(written: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.analysis.test_report import *;"
        "store, plan = in_memory_store(), STUDY.plan();"
        "store_records(store, plan, STUDY.records(plan, without_evaluations(plan, ['from-scratch/0.09M/c50/s2'])));"
        "write_report(store, plan, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, env={"PYTHONHASHSEED": "7"})
    for path in sorted(path for path in written.parent.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(written.parent)).read_bytes(), path.name


def test_the_error_for_an_unwritable_folder_suggests_another(tmp_path: Path) -> None:
    store, plan = in_memory_store(), STUDY.plan()
    (tmp_path / "file").write_text("a file in place of the folder")
    with pytest.raises(ReportNotWritten, match=r"cannot write the report to .*file/report: .*--out DIR"):
        write_report(store, plan, tmp_path / "file" / "report")


def test_slopes_are_shown_per_seed(written: Path) -> None:
    text = page_of(written).text
    assert "is not a scaling law" in text
    assert len(re.findall(r"\N{MINUS SIGN}0\.\d{4}, \N{MINUS SIGN}0\.\d{4}", text)) == 4


def test_two_sizes_give_a_reason_instead_of_a_slope(tmp_path: Path) -> None:
    two = SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0",), recipes=(FROM_SCRATCH,), suites=("bpb",))
    plan = two.plan()
    text = page_of(write_report_from_records(plan, two.records(plan), tmp_path)).text
    assert text.count("no slope: requires at least 3 sizes, found 2") == 2


STUDIES = {
    "one size": SyntheticStudy(sizes=("0.09M",), code_percents=("0", "50"), recipes=(FROM_SCRATCH,), suites=("bpb",)),
    "one seed": SyntheticStudy(sizes=("0.03M", "0.09M"), code_percents=("0",), seeds=(1,), recipes=(FROM_SCRATCH,)),
    "one of everything": ONE,
    "fixed proportions only": SyntheticStudy(sizes=("0.03M",), recipes=(BALANCED_TO_TEXT,), suites=("bpb",)),
    "one group of sources": SyntheticStudy(sizes=("0.03M",), code_percents=("0",), sources={"prose": "text"}, recipes=(FROM_SCRATCH,)),
    "no evaluation": SyntheticStudy(sizes=("0.03M",), code_percents=("0",), suites=()),
    "no cells": SyntheticStudy(sizes=(), recipes=()),
}


@pytest.mark.parametrize("name", STUDIES)
def test_studies_with_a_minimal_grid_have_a_report(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    plan = study.plan()
    page = page_of(write_report_from_records(plan, study.records(plan), tmp_path))
    assert page.open == []
    assert f"{len(plan.cells)} of {len(plan.cells)}" in page.text


def test_a_result_shared_by_two_cells_has_one_link_target(tmp_path: Path) -> None:
    shared = replace(ONE, recipes=(FROM_SCRATCH, SyntheticRecipe("again", FROM_SCRATCH.stages)))
    plan = shared.plan()
    page = page_of(write_report_from_records(plan, shared.records(plan), tmp_path))
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_a_study_without_records_has_a_page_without_figures(tmp_path: Path) -> None:
    page = page_of(write_report(in_memory_store(), ONE.plan(), tmp_path))
    assert "No results yet" in page.text
    assert "prepare the tokenizer" in page.text
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_damaged_record_counts_as_missing_and_is_listed(tmp_path: Path) -> None:
    store, plan = in_memory_store(), ONE.plan()
    store_records(store, plan, ONE.records(plan))
    digest = plan.cells[0].stages[-1].evaluations[0].digest
    store.objects.put(f"tasks/{digest}/record.json", b'{"version": 1')
    text = page_of(write_report(store, plan, tmp_path)).text
    assert f"tasks/{digest}/record.json is not a complete record" in text
    assert f"bpb of prose after cooldown ({digest[:12]})" in text


@pytest.mark.parametrize("name", ["Größe-λ-研究", "<script>alert(1)</script>", 'a "quoted" & {{ study }}'])
def test_names_are_escaped_and_shown_unchanged(name: str, tmp_path: Path) -> None:
    study = SyntheticStudy(
        name=name,
        sizes=("0.03M",),
        code_percents=("0",),
        seeds=(1,),
        recipes=(SyntheticRecipe(f"r {name} $x_1$", FROM_SCRATCH.stages[:1]),),
        suites=("bpb",),
    )
    plan = study.plan()
    page = page_of(write_report_from_records(plan, study.records(plan), tmp_path))
    assert name in page.text
    assert f"r {name} $x_1$, after pretrain" in page.text
    assert "script" not in page.open


def test_a_second_report_removes_figures_of_the_first_and_keeps_other_files(tmp_path: Path) -> None:
    plan = ONE.plan()
    write_report_from_records(plan, ONE.records(plan), tmp_path)
    kept = tmp_path / "figures" / "other.svg"
    kept.touch()
    write_report_from_records(plan, {}, tmp_path)
    assert list((tmp_path / "figures").iterdir()) == [kept]


def test_importing_the_report_does_not_import_large_packages() -> None:
    code = (
        "import sys, analysis.report.page; print({'torch', 'pandas', 'matplotlib', 'jinja2', 'pyarrow', 'numpy'} & set(sys.modules) or '')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
