"""The command line as processes, with the real trainer and the real MLflow."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

MAIN: Final = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
HEAVY: Final = ("torch", "transformers", "mlflow", "pandas", "pyarrow", "obstore", "pydantic", "matplotlib", "scipy")
STUDY: Final = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: smallest}
spec:
  store: store
  grid: {sizes: [0.03M], codePercent: [0, 50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 512, bytes: 100k, weights: {english: 50, python: 50}}}
    sources:
    - {name: english, group: text, path: corpus/text/*.jsonl}
    - {name: python, group: code, path: corpus/code}
    heldOut: {oneIn: 10, documents: 4}
  training: {sequenceLength: 64, precision: fp32, batch: 4, deviation: "0.06", schedule: {shape: wsd, decay: 10%, warmup: 2K}}
  recipes:
  - name: scratch
    stages:
    - {name: pretrain, tokens: 40K, mixture: {codePercent: grid, text: {english: 100}, code: {python: 100}}}
  evaluation: {after: [pretrain], suites: [bpb]}
"""


def scaling_study(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*MAIN, *words], cwd=folder, capture_output=True, text=True, timeout=300, env=clean_environment(), check=False)


@contextmanager
def start(*words: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a command. It is killed at the end of the context."""
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen([*MAIN, *words], cwd=folder, stdout=pipe, stderr=out, text=True, env=clean_environment()) as process:
        try:
            yield process
        finally:
            process.kill()


def clean_environment() -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}, "COLUMNS": "120", "NO_COLOR": "1"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def write_study(folder: Path) -> Path:
    """Write a study that trains two models for a few seconds each, on synthetic English and Python; return its file."""
    text, code = folder / "corpus" / "text", folder / "corpus" / "code"
    text.mkdir(parents=True)
    code.mkdir()
    words = ["the", "a", "model", "reads", "code", "and", "text", "of", "every", "size", "before", "it", "is", "asked", "what", "follows"]
    lines = (" ".join(words[(number * step) % len(words)] for step in range(1, 120)) for number in range(1, 300))
    (text / "a.jsonl").write_text("".join(f'{{"text": "{number} {line}"}}\n' for number, line in enumerate(lines)))
    for number in range(120):
        body = "\n".join(f"    value_{step} = {step * number} + value_{step - 1}" for step in range(1, 30))
        (code / f"m{number}.py").write_text(f"def compute_{number}(value_0):\n{body}\n    return value_29\n")
    file = folder / "study.yaml"
    file.write_text(STUDY)
    return file


def runs_in(database: Path) -> dict[str, str]:
    """Return the status of every active run, by digest."""
    query = "SELECT t.value, r.status FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'digest' AND r.lifecycle_stage = 'active'"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(query).fetchall())


def test_help_lists_the_exit_codes_and_does_not_import_large_packages() -> None:
    program = f"""
import sys
from orchestrator.cli import main
sys.argv = ["scaling-study", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=clean_environment())
    assert "HEAVY []" in said.stdout
    for text in ("run ", "plan ", "report ", "tracking ", "store ", "Exit codes: 0 done", "75 stopped on request"):
        assert text in " ".join(said.stdout.split()) + " "


def test_mistakes_in_the_file_exit_2_without_a_traceback(study: Path) -> None:
    study.write_text(STUDY.replace("codePercent: [0, 50]", "codePercent: [0, 150]"))
    said = scaling_study("run", str(study), folder=study.parent)
    assert (said.returncode, said.stdout) == (2, "")
    assert "study.yaml:6" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_dry_run_lists_the_tasks_in_order_and_writes_nothing(study: Path) -> None:
    said = scaling_study("run", str(study), "--dry-run", folder=study.parent)
    assert said.returncode == 0, said.stderr
    kinds = [line.split()[0] for line in said.stdout.splitlines()[1:]]
    assert said.stdout.startswith("smallest: ")
    assert kinds[:3] == ["prepare"] * 3
    assert kinds.count("train") == 4, "a stable piece and a leaf for each of two cells"
    assert not [path for path in (study.parent / "store").rglob("*") if path.is_file()]


def test_an_unknown_cell_is_rejected(study: Path) -> None:
    said = scaling_study("run", str(study), "--only", "scratch/0.03M/c5/s1", folder=study.parent)
    assert said.returncode == 1
    assert "no cell of smallest matches. Similar names: scratch/0.03M/c50/s1" in said.stderr


def test_a_paused_study_does_not_run(study: Path) -> None:
    study.write_text(STUDY + "  paused: true\n")
    said = scaling_study("run", str(study), folder=study.parent)
    assert (said.returncode, "spec.paused is true" in said.stderr) == (1, True)


@pytest.mark.parametrize(
    ("study_text", "words", "message"),
    [
        (STUDY + "  paused: true\n", [], "spec.paused is true"),
        (STUDY.replace("path: corpus/code", "path: nowhere"), [], "python: nowhere: no such file or folder"),
        (STUDY, ["--only", "nothing/*"], "no cell of smallest matches"),
        (STUDY, ["--gpus", "64"], "64"),
    ],
)
def test_a_dry_run_is_rejected_like_the_run(study: Path, study_text: str, words: list[str], message: str) -> None:
    study.write_text(study_text)
    dry = scaling_study("run", str(study), "--dry-run", *words, folder=study.parent)
    run = scaling_study("run", str(study), "--no-tracking", *words, folder=study.parent)
    assert (dry.returncode, dry.stderr) == (run.returncode, run.stderr)
    assert (dry.returncode, message in dry.stderr) == (1, True), dry.stderr


def test_a_killed_and_stopped_run_resumes_to_report_and_mirror(study: Path) -> None:
    """Kill a worker, press Ctrl-C, run to the end; run again with nothing to do; delete and repair the mirror."""
    store = study.parent / "store"
    with start("run", str(study), "--workers", "1", "--no-tracking", folder=study.parent) as first:
        worker = pid_of_training_worker(first, store, but=set())
        os.kill(worker, signal.SIGKILL)
        pid_of_training_worker(first, store, but={worker})
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate(timeout=300)
    assert first.returncode == 75, output
    assert "its worker died with exit code 137" in output
    assert f"to resume: scaling-study run {study}" in output

    second = scaling_study("run", str(study), "--workers", "1", folder=study.parent)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (store / "report" / "report.html").stat().st_size > 1000
    assert f"report: {(store / 'report' / 'report.html').as_uri()}" in second.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{store}/mlflow.db" in second.stdout
    mirrored = runs_in(store / "mlflow.db")
    assert mirrored.keys() == {marker.name for marker in (store / "done").iterdir()}
    assert set(mirrored.values()) == {"FINISHED"}

    (store / "mlflow.db").unlink()
    with start("tracking", "mirror", "smallest", "--store", str(store), folder=study.parent) as repair:  # the commands below read only
        third = scaling_study("run", str(study), "--no-tracking", folder=study.parent)
        assert third.returncode == 0, third.stdout + third.stderr
        assert "(0 now," in third.stdout

        verified = scaling_study("store", "verify", str(study), folder=study.parent)
        assert (verified.returncode, "0 damaged" in verified.stdout) == (0, True), verified.stdout
        cleared = scaling_study("store", "gc", str(study), "--dry-run", folder=study.parent)
        assert (cleared.returncode, "would be removed" in cleared.stdout) == (0, True), cleared.stdout

        output, _ = repair.communicate(timeout=300)
    assert repair.returncode == 0, output
    assert runs_in(store / "mlflow.db") == mirrored


def pid_of_training_worker(run: "subprocess.Popen[str]", store: Path, but: set[int]) -> int:
    """Wait until a process that is not in `but` holds the lease of a trajectory, and return its pid."""
    while True:
        for lease in store.glob("trajectories/*/lease/*.json"):
            with suppress(ValueError):
                body = json.loads(lease.read_text())
                if body["pid"] not in but and body["ended"] is None:
                    return int(body["pid"])
        assert run.poll() is None, "the run ended before such a process was seen"
        time.sleep(0.02)


def test_store_maintenance_does_not_create_a_missing_store(tmp_path: Path) -> None:
    said = scaling_study("store", "gc", "nowhere", folder=tmp_path)
    assert (said.returncode, "no such folder" in said.stderr) == (1, True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [["tracking", "mirror", "nobody"], ["tracking", "mirror", "nobody", "--store", "empty"]])
def test_mirroring_a_missing_study_is_an_error(tmp_path: Path, words: list[str]) -> None:
    said = scaling_study(*words, folder=tmp_path)
    assert said.returncode == 1
    assert "nobody" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_resume_command_keeps_every_option_except_replan_and_passwords() -> None:
    from orchestrator.cli.run import local_command

    given = ["run", "a b.yaml", "--gpus", "1", "--threads", "4", "--replan", "--only", "*/60M/*"]
    assert local_command(given) == ["scaling-study", "run", "a b.yaml", "--gpus", "1", "--threads", "4", "--only", "*/60M/*"]
    assert local_command(["run", "a", "--tracking-uri", "http://me:secret@mlflow"])[-1] == "http://me:***@mlflow"
