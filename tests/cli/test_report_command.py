"""`report` as a process: the results of the frozen plan, from the store alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.study.opening import freeze_plan, open_study
from tests.analysis.synthetic_study import SyntheticStudy, store_records
from tests.cli.study_file import STUDY as STUDY_OF_TWO_SIZES

STUDY = STUDY_OF_TWO_SIZES.replace('["0.03M", "0.09M"]', '["0.03M"]')


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return a study file beside a store that holds its plan and all records except one cell's evaluation."""
    for name, text in (("text/a.txt", "Ein Satz. " * 500), ("code/a.py", "x = 1\n" * 500)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    opened = open_study(file)
    freeze_plan(opened)
    missing = opened.plan.cells[0].stages[-1].evaluations[0].digest
    records = SyntheticStudy().records(opened.plan, lambda task: task.digest == missing)
    store_records(opened.store, opened.plan, {d: r for d, r in records.items() if opened.plan.tasks[d].kind != TaskKind.PREPARE})
    return file


def command(*words: object, verb: str = "report") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from orchestrator.cli import main; main()", verb, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_report_reads_the_store_and_not_the_sources(study: Path, tmp_path: Path) -> None:
    (tmp_path / "text" / "a.txt").unlink()
    done = command(study, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {(tmp_path / 'out' / 'report.html').resolve().as_uri()}\n"
    assert done.stderr == ""
    page = (tmp_path / "out" / "report.html").read_text()
    assert "scratch/0.03M/c0/s1: " in page
    assert "2 of 2 cells are incomplete" not in page
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} >= {"bits-per-byte-by-size.svg", "training-loss.svg"}


def test_the_default_folder_is_the_one_of_run(study: Path) -> None:
    assert command(study).returncode == 0
    assert (study.parent / "store" / "report" / "report.html").is_file()


def test_a_changed_file_is_noted_and_the_plan_as_run_is_reported(study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY.replace("codePercent: [0, 50]", "codePercent: [0, 50, 100]"))
    done = command(study, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr == f"{study} has changed since the study last ran; this report describes the study as it ran.\n"
    assert "c100" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_missing_store_is_an_error_and_is_not_created(study: Path, tmp_path: Path, scheme: str) -> None:
    for words in (["report", study], ["tracking", "mirror", study], ["tracking", "mirror", "kleine-studie"], ["status", study]):
        done = command(*words[1:], "--store", f"{scheme}{tmp_path}/else where", verb=str(words[0]))
        assert (done.returncode, done.stdout) == (1, ""), words
        assert f"there is no store at {scheme}{tmp_path}/else where: no such folder" in done.stderr, words
        assert not (tmp_path / "else where").exists(), words


def test_a_study_missing_from_the_store_is_rejected_with_the_next_step(study: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = command(study, "--store", tmp_path / "elsewhere", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no study called 'kleine-studie', so there is nothing to report" in done.stderr
    assert f"Run it first with `scaling-study run {study}`" in done.stderr
    assert not (tmp_path / "out").exists()
