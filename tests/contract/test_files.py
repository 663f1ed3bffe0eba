"""Readers by file name, and fingerprints by file contents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.files import (
    CODE,
    JSON_LINES,
    JSON_LINES_GZ,
    JSON_LINES_ZST,
    PARQUET,
    TEXT,
    fingerprint_of,
    in_reading_order,
    kind_of,
)
from orchestrator.errors import ContractError

KINDS = [
    ("web.jsonl", (JSON_LINES, "")),
    ("web.ndjson", (JSON_LINES, "")),
    ("c4-train.00000-of-01024.json.gz", (JSON_LINES_GZ, "")),
    ("s3://corpora/slimpajama/chunk1/example_0.jsonl.zst", (JSON_LINES_ZST, "")),
    ("/data/stack/part-0.PARQUET", (PARQUET, "")),
    ("README.md", (TEXT, "")),
    ("a.b.c.txt", (TEXT, "")),
    ("/corpus/ünïcode/日本語.txt", (TEXT, "")),
    ("module.py", (CODE, "python")),
    ("kernel.CU", (CODE, "cuda")),
    ("v1.2.js", (CODE, "javascript")),
    ("index.d.ts", (CODE, "typescript")),
    ("page.html", (CODE, "html")),
    ("src/Makefile", (CODE, "makefile")),
    ("Dockerfile", (CODE, "dockerfile")),
]
UNKNOWN = ["photo.png", "module.pyc", "archive.tar.gz", "data.py.gz", "LICENSE", "", ".py", "model.safetensors", "jsonl"]

hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
triples = st.lists(st.tuples(hashes, st.sampled_from([CODE, TEXT]), st.sampled_from(["", "python", "c"])), min_size=1, max_size=6)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_reader_is_determined_by_the_file_name(name: str, kind: tuple[str, str]) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_file_types_have_no_reader(name: str) -> None:
    assert kind_of(name) is None


@given(triples, st.randoms())
def test_fingerprint_does_not_depend_on_file_order(files: list[tuple[str, str, str]], random: object) -> None:
    shuffled = files[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint_of(shuffled) == fingerprint_of(files)
    assert in_reading_order(shuffled) == in_reading_order(files)


@given(triples)
def test_duplicate_file_changes_the_fingerprint(files: list[tuple[str, str, str]]) -> None:
    assert fingerprint_of([*files, files[0]]) != fingerprint_of(files)


@given(triples, triples)
def test_fingerprints_are_equal_only_for_equal_contents(one: list[tuple[str, str, str]], other: list[tuple[str, str, str]]) -> None:
    assert (fingerprint_of(one) == fingerprint_of(other)) == (sorted(one) == sorted(other))


def test_fingerprint_equals_the_recorded_one() -> None:
    files = [("b" * 64, CODE, "python"), ("a" * 64, JSON_LINES_ZST, "")]
    assert fingerprint_of(files) == "c345e41a8da6dab7bf85d74e9c7d980f7a3b22d1004b8510686fca3edc67371d"


def test_a_source_without_files_has_no_fingerprint() -> None:
    with pytest.raises(ContractError, match="without files"):
        fingerprint_of([])
