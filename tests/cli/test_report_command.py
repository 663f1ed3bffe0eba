"""`report` as a person meets it: the frozen plan's results, from the store alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.study.opening import keep, open_study
from tests.analysis.synthetic_study import MadeUpStudy
from tests.analysis.synthetic_study import keep as keep_records

STUDY = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: kleine-studie}
spec:
  store: store
  grid: {sizes: ["0.03M"], codePercent: [0, 50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 1024, bytes: 1M, weights: {text: 50, code: 50}}}
    sources:
    - {name: text, group: text, path: text, tokens: 60K}
    - {name: code, group: code, path: code}
    heldOut: {oneIn: 50, documents: 20}
  training: {sequenceLength: 128, precision: fp32, schedule: {warmup: 8K}}
  recipes:
  - name: scratch
    stages:
    - {name: pretrain, tokens: 100K, mixture: {codePercent: grid, code: {code: 100}, text: {text: 100}}}
    - {name: cooldown, tokens: 25K, mixture: {codePercent: 20, code: {code: 100}, text: {text: 100}}}
  evaluation: {after: [cooldown], suites: [bpb]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file beside a store that holds its plan and all records but one cell's evaluation."""
    for name, text in (("text/a.txt", "Ein Satz. " * 500), ("code/a.py", "x = 1\n" * 500)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    opened = open_study(file)
    keep(opened)
    lost = opened.plan.cells[0].stages[-1].evaluations[0].digest
    records = MadeUpStudy().records(opened.plan, lambda task: task.digest == lost)
    keep_records(opened.store, opened.plan, {d: r for d, r in records.items() if opened.plan.tasks[d].kind != TaskKind.PREPARE})
    return file


def command(*words: object, verb: str = "report") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from orchestrator.cli import main; main()", verb, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_a_report_needs_the_store_and_not_the_data(study: Path, tmp_path: Path) -> None:
    (tmp_path / "text" / "a.txt").unlink()
    done = command(study, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {(tmp_path / 'out' / 'report.html').resolve().as_uri()}\n"
    assert done.stderr == ""
    page = (tmp_path / "out" / "report.html").read_text()
    assert "scratch/0.03M/c0/s1: " in page
    assert "2 of 2 cells are incomplete" not in page
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} >= {"bits-per-byte-by-size.svg", "training-loss.svg"}


def test_without_out_it_stands_where_run_puts_it(study: Path) -> None:
    assert command(study).returncode == 0
    assert (study.parent / "store" / "report" / "report.html").is_file()


def test_a_file_that_has_changed_since_is_told_and_the_plan_as_run_reported(study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY.replace("codePercent: [0, 50]", "codePercent: [0, 50, 100]"))
    done = command(study, "--out", tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr == f"{study} has changed since the study was last run; this report is of the study as it was run.\n"
    assert "c100" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_store_that_is_not_there_is_told_and_not_made(study: Path, tmp_path: Path, scheme: str) -> None:
    for words in (["report", study], ["tracking", "mirror", study], ["tracking", "mirror", "kleine-studie"], ["status", study]):
        done = command(*words[1:], "--store", f"{scheme}{tmp_path}/else where", verb=str(words[0]))
        assert (done.returncode, done.stdout) == (1, ""), words
        assert f"there is no store at {scheme}{tmp_path}/else where: no such folder" in done.stderr, words
        assert not (tmp_path / "else where").exists(), words


def test_a_study_that_the_store_does_not_have_is_refused_with_what_to_do(study: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = command(study, "--store", tmp_path / "elsewhere", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no study called 'kleine-studie', so there is nothing to report" in done.stderr
    assert f"`scaling-study run {study}` begins it" in done.stderr
    assert not (tmp_path / "out").exists()
