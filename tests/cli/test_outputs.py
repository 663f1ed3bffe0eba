"""Output paths: one that cannot be written gives one sentence and exit code 2, and read-only commands create no store."""

from pathlib import Path

import pytest

from tests.cli.study_file import STUDY, command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which holds a study and its sources."""
    monkeypatch.chdir(tmp_path)
    for name in ("text", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"A sentence of {name}. " * 500)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "study.yaml", "--graph", "none/x.svg"], "none/x.svg cannot be written: No such file or directory. Name a file in"),
        (["plan", "study.yaml", "--graph", "text"], "text cannot be written: Is a directory. Name a file in"),
        (["render", "study.yaml", "--out", "study.yaml"], "study.yaml cannot be written: File exists. Name a folder with --out"),
        (["render", "study.yaml", "--out", "study.yaml/x"], "study.yaml/x cannot be written: Not a directory. Name a folder with --out"),
        (["demo-corpus", "study.yaml"], "study.yaml cannot be written: Not a directory. Name a folder"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_unwritable_output_path_exits_2_with_one_sentence(words: list[str], message: str) -> None:
    done = command(*words)
    assert (done.returncode, done.stderr.startswith(message), len(done.stderr.splitlines())) == (2, True, 1), done.stderr


@pytest.mark.parametrize(
    "words", [["plan"], ["render"], ["explain", "scratch/0.03M/c0/s1"], ["run", "--dry-run"], ["plan", "--store", "else where"]]
)
def test_read_only_commands_create_no_store(folder: Path, words: list[str]) -> None:
    before = sorted(folder.iterdir())
    done = command(words[0], "study.yaml", *words[1:])
    assert done.returncode == 0, done.stderr
    assert sorted(folder.iterdir()) == before
