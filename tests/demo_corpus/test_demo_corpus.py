"""The demo corpus: extraction of prose and code from installed packages, and writing its folder once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from orchestrator.cli import build_app
from orchestrator.demo_corpus import Corpus, write_corpus
from orchestrator.demo_corpus.gather import LONGEST_DOCUMENT, SHORTEST_DOCUMENT, text_documents
from orchestrator.demo_corpus.prose import paragraphs, reads_as_prose, sameness
from orchestrator.errors import ScalingStudyError

RATE = "The rate at which the weights of the model move towards the minimum of the loss."
STEP = "A step that is too large makes the loss grow, and one that is too small makes the training slow."

KEPT = {
    "plain": (f"{RATE}\n{STEP}", [f"{RATE} {STEP}"]),
    "two paragraphs": (f"{RATE}\n\n{STEP}", [RATE, STEP]),
    "bullets": (f"- {RATE}\n- {STEP}\n", [RATE, STEP]),
    "hanging bullet": (f"Begin.\n\n* {RATE}\n  {STEP}", [f"{RATE} {STEP}"]),
    "numpydoc parameter": (f"Parameters\n----------\nrate : float, default 0.1\n    {RATE}\n", [RATE]),
    "field": (f":param rate: {RATE}\n:returns: nothing\n", [RATE]),
    "google argument": (f"Args:\n    rate (float, *optional*): {RATE}\n    step: {STEP}\n", [RATE, STEP]),
    "under a heading": (f"Begin.\n\nNotes\n-----\n{RATE}\n", [RATE]),
    "note": (f"Begin.\n\n.. note::\n\n    {RATE}\n", [RATE]),
}

PLAIN = {
    "What :class:`~torch.optim.Adam` and :meth:`.Module.step` do with it is not said.": "What Adam and step do with it is not said.",
    "The value of ``rate`` is what `it` is given and *not* what it has.": "The value of rate is what it is given and not what it has.",
    "It is said in `the book <https://example.org>`_ and in the other one.": "It is said in the book and in the other one.",
    "It is said in [the book](https://example.org) and in the other one.": "It is said in the book and in the other one.",
    "This is what was found in the first of the papers [1]_ .": "This is what was found in the first of the papers.",
    "<p>It is what is <b>written</b> on the first of the pages.</p>": "It is what is written on the first of the pages.",
}

DROPPED = {
    "doctest": f">>> step(rate=0.1)\n{RATE}\n",
    "code block": f"Begin.\n\nWith::\n\n    {RATE}",
    "directive": f"Begin.\n\n.. code-block:: python\n\n    {RATE}\n\n    {STEP}\n",
    "mathematics": f"Begin.\n\n.. math::\n\n    {RATE}\n",
    "fence": f"```python\n{RATE}\n```\n",
    "heading": f"{RATE}\n{'-' * 20}\n",
    "signature": "step(rate, weights=None, *, out=None) -> the new weights of the model.",
    "table": "rate   | weights | loss\n0.1    | 12      | 3.4\n",
    "short": "Takes a step.",
    "no sentence": "the name of the file that it is read from or written to, if there is one",
    "names": "Adam AdamW Adagrad Adadelta SGD RMSprop Rprop NAdam RAdam LBFGS.",
    "title words": "Proceedings of International Conference Series Machine Learning Research Volume Berlin Heidelberg Springer Verlag.",
    "numbers": "The loss is 3.41, 3.12, 2.98, 2.95 and 2.94 at 10, 20, 30, 40 and 50 of the steps.",
    "formula": "If x_i = a * y_i + b for all i then a = cov(x, y) / var(y) and b = m_x - a * m_y.",
    "other language": "学习率是模型的权重向损失最小值移动的速度 and this is how the rest of it is said.",
}


@pytest.mark.parametrize(("text", "expected"), KEPT.values(), ids=KEPT)
def test_prose_is_kept_without_its_markup(text: str, expected: list[str]) -> None:
    assert paragraphs(text) == expected


@pytest.mark.parametrize(("text", "expected"), PLAIN.items())
def test_inline_markup_is_replaced_by_its_words(text: str, expected: str) -> None:
    assert paragraphs(text) == [expected]


@pytest.mark.parametrize("text", DROPPED.values(), ids=DROPPED)
def test_text_other_than_prose_is_dropped(text: str) -> None:
    assert paragraphs(text) == []


@given(st.lists(st.sampled_from([RATE, STEP, "", "    ", ">>> f(x)", "::", "```", "----", ".. math::", "- ", ":param x: ", "x : int"])))
def test_every_paragraph_is_one_line_of_prose_regardless_of_its_surroundings(lines: list[str]) -> None:
    assert all("\n" not in paragraph and reads_as_prose(paragraph) for paragraph in paragraphs("\n".join(lines)))


@given(st.text())
def test_paragraphs_of_arbitrary_text_are_prose(text: str) -> None:
    assert all(map(reads_as_prose, paragraphs(text)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Return the sum of AdamW and 3 others.", "Return the sum of Adagrad and 12 others.", True),
        ("See the model_name of it.", "See the other_name of it.", True),
        ("Return the sum of both.", "Return the product of both.", False),
    ],
)
def test_texts_that_differ_only_in_names_and_numbers_are_duplicates(one: str, other: str, same: bool) -> None:
    assert (sameness(one) == sameness(other)) is same


TENS = ("", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBERS = tuple(tens + one for tens in TENS for one in ("one", "two", "three", "four", "five", "six"))


ORIGINS = ("name", "description", "array", "tensor", "operator")


def prose(subject: str) -> str:
    """Return unique paragraphs: each contains its subject and a number in lower-case letters."""
    return "\n\n".join(f"The {subject} of number {one} is what you get when all of the others have been taken away." for one in NUMBERS)


@pytest.fixture
def installation(tmp_path: Path) -> tuple[Path, Path]:
    """A small standard library and site-packages folder, with every kind of file and text that is excluded."""
    library, packages = tmp_path / "library", tmp_path / "packages"
    files = {
        library / "json" / "tool.py": "print('tool')\n",
        library / "abc.py": f'"""{prose("library")}"""\n',
        library / "empty.py": "\n",
        library / "test" / "test_abc.py": "assert True\n",
        library / "encodings" / "cp437.py": "table = {}\n",
        library / "site-packages" / "numpy.py": "x = 1\n",
        library / "pydoc_data" / "topics.py": f"topics = {{'names': {prose('name')!r}}}\n",
        packages / "numpy" / "core.py": f'"""{prose("array")}"""\n',
        packages / "numpy" / "again.py": f'"""{prose("array")}"""\n',
        packages / "numpy" / "broken.py": f'"""{prose("syntax")}"""\nif:\n',
        packages / "numpy" / "tests" / "test_core.py": f'"""{prose("test")}"""\n',
        packages / "torch" / "docs.py": f'def f() -> None:\n    """{prose("tensor")}"""\n\n\nadd(f, """{prose("operator")}""")\n',
        packages / "numpy" / "few_words.py": f'"""{RATE}\\n\\n{STEP}{" " * 99}"""\n',
        packages / "unknown" / "core.py": f'"""{prose("unknown")}"""\n',
        packages / "six-1.0.dist-info" / "METADATA": f"Name: six\nSummary: {prose('header').splitlines()[0]}\n\n{prose('description')}\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (library / "latin.py").write_bytes("name = 'Jörg'\n".encode("latin-1"))
    return library, packages


def write(folder: Path, installation: tuple[Path, Path], workers: int = 1) -> Corpus:
    library, packages = installation
    return write_corpus(folder, library=library, packages=packages, workers=workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def texts(folder: Path) -> str:
    return "\n".join(json.loads(line)["text"] for file in sorted((folder / "text").iterdir()) for line in file.read_text().splitlines())


def test_code_is_the_library_without_tests_tables_empty_files_and_invalid_utf8(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    corpus = write(tmp_path / "out", installation)
    assert [name for name in contents(tmp_path / "out") if name.startswith("code/")] == ["code/abc.py", "code/json/tool.py"]
    assert corpus.code_documents == 2


def test_text_is_help_topics_descriptions_and_docstrings_of_known_packages(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    write(tmp_path / "out", installation)
    found = texts(tmp_path / "out")
    there = {subject for subject in ORIGINS if f"The {subject} of number one" in found}
    absent = {subject for subject in ("library", "syntax", "test", "unknown", "header") if f"The {subject} of number" in found}
    assert (there, absent) == (set(ORIGINS), set())


def test_paragraphs_are_unique(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    write(tmp_path / "out", installation)
    found = [line for line in texts(tmp_path / "out").splitlines() if line]
    assert len(found) == len(set(found))


def test_text_documents_have_a_minimum_and_a_maximum_length(installation: tuple[Path, Path]) -> None:
    documents = [document for _, found in text_documents(*installation, 1) for document in found]
    assert all(SHORTEST_DOCUMENT <= len(document) <= LONGEST_DOCUMENT + len(NUMBERS) * len("\n\n") for document in documents)
    assert len(documents) > len(ORIGINS)


def test_the_same_installation_gives_the_same_bytes(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    write(tmp_path / "one", installation, workers=1)
    write(tmp_path / "other", installation, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_a_complete_corpus_is_unchanged_even_if_packages_have_changed(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    first = write(tmp_path / "out", installation)
    before = contents(tmp_path / "out")
    (installation[0] / "new.py").write_text("new = True\n")
    second = write(tmp_path / "out", installation)
    assert contents(tmp_path / "out") == before
    assert (first.written, second.written) == (True, False)
    assert (second.code_documents, second.text_bytes) == (first.code_documents, first.text_bytes)


def test_an_incomplete_corpus_is_written_again(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    write(tmp_path / "whole", installation)
    broken = tmp_path / "broken"
    (broken / "code").mkdir(parents=True)
    (broken / "unfinished").touch()
    (broken / "code" / "left_over.py").write_text("half a fi")
    assert write(broken, installation).written
    assert contents(broken) == contents(tmp_path / "whole")


def test_a_folder_with_other_files_is_refused_and_not_modified(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    (tmp_path / "mine" / "code").mkdir(parents=True)
    (tmp_path / "mine" / "code" / "thesis.py").write_text("years = 4\n")
    with pytest.raises(ScalingStudyError, match="files in it and no manifest of a demo corpus") as caught:
        write(tmp_path / "mine", installation)
    assert "Name another folder" in str(caught.value)
    assert contents(tmp_path / "mine") == {"code/thesis.py": b"years = 4\n"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "code" / "abc.py").write_text("x"), "1 of its files are missing or changed, the first is code/abc.py"),
        (lambda folder: (folder / "code" / "abc.py").unlink(), "1 of its files are missing or changed, the first is code/abc.py"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json is not one that this command wrote"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is not one that this command wrote"),
    ],
    ids=["changed", "missing", "another manifest", "half a manifest"],
)
def test_a_changed_corpus_is_refused_and_not_replaced(
    tmp_path: Path, installation: tuple[Path, Path], damage: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "out", installation)
    damage(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ScalingStudyError, match=message):
        write(tmp_path / "out", installation)
    assert contents(tmp_path / "out") == before


def test_the_error_for_an_installation_without_prose_names_the_extra_to_install(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    (installation[0] / "pydoc_data" / "topics.py").unlink()
    with pytest.raises(ScalingStudyError, match=r"no English prose in the installed packages\.\n.*`local` extra"):
        write_corpus(tmp_path / "out", library=installation[0], packages=tmp_path / "nothing", workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_command_prints_the_size_of_an_existing_corpus(tmp_path: Path, installation: tuple[Path, Path]) -> None:
    corpus = write(tmp_path / "out", installation)
    result = CliRunner().invoke(build_app(), ["demo-corpus", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert f"text: {corpus.text_documents:6} documents" in result.stdout
    assert "already exists, nothing written" in result.stdout
