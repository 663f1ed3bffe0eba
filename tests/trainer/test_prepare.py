"""Preparation of a source: documents read and skipped, held-out set, shuffling, shards, and restarts."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.context import Outcome, Stopped
from trainer.data.sources import PreparedSource
from trainer.prepare import Sizes
from trainer.prepare.tokenizer import END_OF_TEXT

from orchestrator.contract.tasks import Reader, Task
from orchestrator.errors import StoreUnavailable, TaskRefused
from orchestrator.store import Store, open_store
from orchestrator.store.leases import history
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from orchestrator.store.records import create_task
from orchestrator.study.sources import fingerprint
from tests.trainer.workplace import (
    READER,
    TINY,
    Prepared,
    Workplace,
    held_out_of,
    is_held_out,
    lines_of,
    new_workplace,
    synthetic_documents,
    training_texts,
)

TEXTS = synthetic_documents(120)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return new_workplace(in_memory_store(), tmp_path)


def as_parquet(texts: list[str]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), sink, row_group_size=50)
    return bytes(sink.getvalue())


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": lines_of,
    "a.json": lambda texts: b"\xef\xbb\xbf" + lines_of(texts).rstrip(b"\n"),
    "a.jsonl.gz": lambda texts: gzip.compress(lines_of(texts)),
    "a.json.gz": lambda texts: gzip.compress(lines_of(texts[:50])) + gzip.compress(lines_of(texts[50:])),
    "a.jsonl.zst": lambda texts: zstandard.compress(lines_of(texts)),
    "a.json.zst": lambda texts: zstandard.compress(lines_of(texts[:50])) + zstandard.compress(lines_of(texts[50:])),
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name: str, workplace: Workplace) -> None:
    prepared = workplace.prepared(workplace.write(name, FORMATS[name](TEXTS)))
    assert Counter(prepared.texts) == Counter(training_texts(TEXTS))
    assert set(prepared.held_out) == held_out_of(TEXTS)
    assert prepared.results == {
        "tokens": sum(len(text.encode()) + 1 for text in training_texts(TEXTS)), "documents": len(training_texts(TEXTS)),
        "bytes": sum(len(text.encode()) for text in training_texts(TEXTS)), "held_out_documents": len(held_out_of(TEXTS)),
        "held_out_bytes": sum(len(text.encode()) for text in held_out_of(TEXTS)), "files": 1, "vocabulary": 257,
        "skipped_large": 0, "skipped_binary": 0, "skipped_broken_utf8": 0, "skipped_broken_json": 0, "skipped_without_text": 0,
        "skipped_empty": 0,
    }  # fmt: skip


def test_folder_gives_one_document_per_file(workplace: Workplace) -> None:
    texts = {f"src/päckage {number}/mødule{number}.py": text for number, text in enumerate(TEXTS[:30])} | {
        "日本語/読.md": "漢字かな交じり文"
    }
    for name, text in texts.items():
        workplace.write(f"tree/{name}", text)
    workplace.write("tree/.git/config.py", "hidden")
    workplace.write("tree/logo.png", b"\x89PNG")
    prepared = workplace.prepared(workplace.folder / "tree")
    assert Counter(prepared.texts) == Counter(training_texts(texts.values()))
    assert prepared.results["files"] == len(texts)


UNREADABLE = [
    ("latin1.py", "# café\n".encode("latin-1"), "skipped_broken_utf8"),
    ("latin1.txt", "café".encode("latin-1"), "skipped_broken_utf8"),
    ("binary.py", b"print(1)\0\1\2", "skipped_binary"),
    ("utf16.txt", "wide".encode("utf-16"), "skipped_binary"),
    ("large.py", b"x = 1\n" * 1000, "skipped_large"),
    ("empty.py", b"", "skipped_empty"),
    ("blank.txt", b" \n\t\n", "skipped_empty"),
    ("latin1.jsonl", '{"text": "café"}\n'.encode("latin-1"), "skipped_broken_utf8"),
    ("half.jsonl", b'{"text": "half a pair: \\ud83d"}\n', "skipped_broken_utf8"),
    ("cut.jsonl", b'{"text": "cut of', "skipped_broken_json"),
    ("list.jsonl", b'["text", "no object"]\n', "skipped_broken_json"),
    ("deep.jsonl", b"[" * 100_000 + b"\n", "skipped_broken_json"),
    ("other.jsonl", b'{"content": "another key"}\n', "skipped_without_text"),
    ("null.jsonl", b'{"text": null}\n', "skipped_without_text"),
    ("blank.jsonl", b'{"text": "  "}\n\n', "skipped_empty"),
]


@pytest.mark.parametrize(("name", "content", "count"), UNREADABLE, ids=[name for name, _, _ in UNREADABLE])
def test_invalid_documents_are_skipped_and_counted(name: str, content: bytes, count: str, workplace: Workplace) -> None:
    workplace.write("tree/good.py", "good = 1  # kept\n" + "x" * 7)
    workplace.write(f"tree/{name}", content)
    prepared = workplace.prepared(workplace.folder / "tree", held_out_one_in=10**6)
    assert prepared.texts == ["good = 1  # kept\n" + "x" * 7]
    skipped = {key: value for key, value in prepared.results.items() if key.startswith("skipped_") and value}
    assert skipped == {count: 1}


def test_size_limit_applies_only_to_source_code(workplace: Workplace) -> None:
    text = "a long letter " * 400
    assert len(text) > READER.max_file_bytes
    assert workplace.prepared(workplace.write("letter.txt", text), held_out_one_in=10**6).texts == [text]


REFUSED = [
    ("cut.jsonl.gz", gzip.compress(lines_of(TEXTS))[:-20], "not a complete gzip file"),
    ("none.jsonl.gz", b"this is no gzip file", "not a complete gzip file"),
    ("flipped.jsonl.gz", bytes([*gzip.compress(lines_of(TEXTS))[:-6], 1, 2, 3, 4, 5, 6]), "not a complete gzip file"),
    ("cut.jsonl.zst", zstandard.compress(lines_of(TEXTS))[:-20], "is truncated: it ends inside a zst frame"),
    ("none.jsonl.zst", b"this is no zst file, that is sure", "not a complete zst file"),
    ("cut.parquet", as_parquet(TEXTS)[:-20], "not a complete Parquet file"),
    ("column.jsonl", b'{"content": "x", "id": 3}\n' * 200, "none of its first 100 objects has a text under 'text'.*'content', 'id'"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_file_that_does_not_have_the_format_of_its_name_is_refused(name: str, content: bytes, message: str, workplace: Workplace) -> None:
    path = workplace.write(name, content)
    with pytest.raises(TaskRefused, match=f"{name}.*{message}"):
        workplace.attempt(workplace.task(path))


@pytest.mark.parametrize(
    ("column", "message"), [("body", "no column 'body'; its columns are 'id', 'text'"), ("id", "'id' holds int64, not text")]
)
def test_wrong_parquet_column_is_refused(column: str, message: str, workplace: Workplace) -> None:
    path = workplace.write("a.parquet", as_parquet(TEXTS))
    with pytest.raises(TaskRefused, match=message):
        workplace.attempt(workplace.task(path, reader=Reader(column, 1000)))


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n', '{"text": null}\n{"x": 1}\n'])
def test_empty_source_is_refused_by_name(content: str, workplace: Workplace) -> None:
    path = workplace.write("empty.jsonl", content)
    workplace.inputs["f" * 64] = [str(path)]
    task = workplace.task(path) if content else replace(workplace.task(workplace.write("full.txt", "full")), fingerprint="f" * 64)
    with pytest.raises(TaskRefused, match=r"empty\.jsonl.*the source is empty"):
        workplace.attempt(task)


def test_source_with_only_held_out_documents_is_refused(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(TEXTS))
    with pytest.raises(TaskRefused, match=rf"no training document.* {len(TEXTS)} held out"):
        workplace.attempt(workplace.task(path, held_out_one_in=1))


def test_files_changed_since_planning_are_refused(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(TEXTS))
    task = workplace.task(path)
    workplace.write("a.jsonl", lines_of(TEXTS[1:]))
    now = fingerprint(str(path), workplace.folder, workplace.folder / "hashes").fingerprint
    with pytest.raises(TaskRefused, match=rf"a\.jsonl.*{now}.*{task.fingerprint}"):
        workplace.attempt(task)


def test_missing_source_is_refused_by_name(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(TEXTS))
    task = workplace.task(path)
    path.unlink()
    with pytest.raises(TaskRefused, match=r"a\.jsonl: no such file"):
        workplace.attempt(task)
    workplace.inputs.clear()
    with pytest.raises(TaskRefused, match="names no file for"):
        workplace.attempt(replace(task, tokenizer="file:" + "0" * 64))


def test_documents_are_shuffled_and_copies_are_separated(workplace: Workplace) -> None:
    texts = training_texts(synthetic_documents(100)) + ["copy"] * 20
    prepared = workplace.prepared(workplace.write("a.jsonl", lines_of(texts)), held_out_one_in=10**6)
    assert Counter(prepared.texts) == Counter(texts)
    assert prepared.texts != texts
    copies = [number for number, text in enumerate(prepared.texts) if text == "copy"]
    assert (np.diff(copies) > 1).sum() > 10


def test_copies_of_a_file_are_separate_documents(workplace: Workplace) -> None:
    for name in "abcdef":
        workplace.write(f"tree/{name}.jsonl", lines_of(["same", "other", "third"]))
    prepared = workplace.prepared(workplace.folder / "tree", held_out_one_in=10**6)
    assert Counter(prepared.texts) == {"same": 6, "other": 6, "third": 6}
    assert prepared.texts[:6] != [prepared.texts[0]] * 6


def test_held_out_set_depends_only_on_the_text(workplace: Workplace) -> None:
    lines = workplace.prepared(workplace.write("a.jsonl", lines_of(TEXTS)))
    for number, text in enumerate(TEXTS):
        workplace.write(f"tree/{number}.txt", text)
    files = workplace.prepared(workplace.folder / "tree")
    assert lines.held_out == files.held_out
    assert not set(lines.texts) & set(files.held_out)
    assert [document.hash for document in lines.source.held_out(9)] == sorted(
        hashlib.sha256(t.encode()).hexdigest() for t in held_out_of(TEXTS)
    )[:9]


def test_copies_of_a_held_out_document_are_kept_once(workplace: Workplace) -> None:
    prepared = workplace.prepared(workplace.write("a.jsonl", lines_of(TEXTS * 3)))
    assert len(prepared.held_out) == prepared.results["held_out_documents"] == len(held_out_of(TEXTS))
    assert prepared.results["held_out_bytes"] == sum(len(text.encode()) for text in held_out_of(TEXTS))
    assert Counter(prepared.texts) == Counter(training_texts(TEXTS * 3))


def test_end_of_text_token_in_a_document_is_tokenised_as_text(workplace: Workplace) -> None:
    text = f"it ends with {END_OF_TEXT} in a sentence"
    prepared = workplace.prepared(workplace.write("a.txt", text), held_out_one_in=10**6)
    assert prepared.texts == [text]
    assert prepared.ids.count(prepared.source.end_of_text) == 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Path, bytes]:
    workplace = new_workplace(in_memory_store(), tmp_path_factory.mktemp("reference"))
    for number in range(4):
        workplace.write(f"tree/{number}.jsonl", lines_of(synthetic_documents(25, f"file {number}, document")))
    path = workplace.folder / "tree"
    return workplace, path, contents(workplace.store, workplace.attempt(workplace.task(path), Sizes()))


def contents(store: Store, outcome: Outcome) -> bytes:
    """Return the concatenated training and held-out files, which do not depend on shard sizes."""
    names = [[name for name in sorted(outcome.artifacts) if name.startswith(start)] for start in ("training", "held-out")]
    parts = [
        store.objects.get(outcome.artifacts[name].key)
        for each in names
        for ending in (".bin", ".documents")
        for name in each
        if name.endswith(ending)
    ]
    return b"".join(parts)


@settings(max_examples=12)
@given(st.builds(Sizes, *[st.integers(200, 20_000)] * 4), st.sampled_from([1, 3]))
def test_tokens_do_not_depend_on_sizes_and_threads(reference: tuple[Workplace, Path, bytes], sizes: Sizes, threads: int) -> None:
    workplace, path, expected = reference
    assert contents(workplace.store, workplace.attempt(workplace.task(path), sizes, threads=threads)) == expected


def test_shards_have_the_requested_size(workplace: Workplace) -> None:
    outcome = workplace.attempt(workplace.task(workplace.write("a.jsonl", lines_of(TEXTS))), replace(TINY, shard_bytes=400))
    shards = [outcome.artifacts[name].bytes for name in sorted(outcome.artifacts) if name.startswith("training") and name.endswith(".bin")]
    assert len(shards) > 5
    assert set(shards[:-1]) == {400}
    assert 0 < shards[-1] <= 400


@given(st.integers(1, 60))
@settings(max_examples=6)
def test_stopped_task_resumes_where_it_stopped(reference: tuple[Workplace, Path, bytes], asked: int) -> None:
    """Each attempt keeps the documents that it has tokenised."""
    workplace, path, expected = reference
    task = replace(workplace.task(path), limit=10**9 + asked)
    pieces = list[int]()
    while True:
        try:
            outcome = workplace.attempt(task, stop=after(asked))
        except Stopped:
            pieces.append(len(piece_manifests(workplace, task)))
            asked += asked // 2 + 3
        else:
            break
    assert contents(workplace.store, outcome) == expected
    assert pieces == sorted(pieces)
    assert piece_manifests(workplace, task) == []


def test_stop_writes_an_incomplete_piece(workplace: Workplace) -> None:
    task = workplace.task(workplace.write("a.jsonl", lines_of(TEXTS)))
    expected = contents(workplace.store, workplace.attempt(task))
    again, roomy = replace(task, limit=10**9), replace(TINY, piece_bytes=10**9)
    for pieces in (1, 2):
        with pytest.raises(Stopped):
            workplace.attempt(again, roomy, stop=after(5))
        assert len(piece_manifests(workplace, again)) == pieces
    assert contents(workplace.store, workplace.attempt(again, roomy)) == expected


def after(calls: int) -> Callable[[], bool]:
    """Return a stop callback that returns True after `calls` calls."""
    answers = iter([False] * calls)
    return lambda: next(answers, True)


def piece_manifests(workplace: Workplace, task: Task) -> list[str]:
    """Return the keys of the manifests of pieces."""
    digest = create_task(workplace.store, task)
    return [
        stat.key
        for stat in workplace.store.objects.list(f"tasks/{digest}/attempts")
        if "/pieces/" in stat.key and stat.key.endswith(".json")
    ]


@pytest.mark.parametrize("write", [0, 1, 2, 20, 45])
def test_killed_task_repeats_only_the_last_piece(write: int, tmp_path: Path) -> None:
    objects = InMemoryObjects()
    workplace = new_workplace(in_memory_store(objects=objects), tmp_path)
    task = workplace.task(workplace.write("a.jsonl", lines_of(TEXTS)))
    expected = contents(workplace.store, workplace.attempt(task))
    again = replace(task, limit=10**9)
    objects.faults.append(Fault("put", "*/attempts/*", "before", skip=write))
    with pytest.raises(StoreUnavailable, match="a fault of the test"):
        workplace.attempt(again)
    objects.log.clear()
    before = piece_manifests(workplace, again)
    assert contents(workplace.store, workplace.attempt(again)) == expected
    starts = [key.rpartition("/")[2] for key in before]
    rewritten = [key.rpartition("/")[2] for name, key in objects.log if name == "put" and "/pieces/" in key and key.endswith(".json")]
    assert not set(starts) & set(rewritten)


@pytest.mark.parametrize("ending", [".json", ".bin", ".rows"])
def test_damaged_piece_is_written_again(ending: str, tmp_path: Path) -> None:
    workplace = new_workplace(open_store(str(tmp_path / "store")), tmp_path)
    task = workplace.task(workplace.write("a.jsonl", lines_of(TEXTS)))
    expected = contents(workplace.store, workplace.attempt(task))
    again = replace(task, limit=10**9)
    with pytest.raises(Stopped):
        workplace.attempt(again, stop=after(20))
    manifests = piece_manifests(workplace, again)
    assert len(manifests) > 1
    damaged = workplace.store.objects.local_path(sorted(manifests)[0].replace(".json", ending))
    assert damaged is not None
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert contents(workplace.store, workplace.attempt(again)) == expected


def test_progress_increases_and_the_lease_is_ended(workplace: Workplace) -> None:
    task = workplace.task(workplace.write("a.jsonl", lines_of(TEXTS)))
    digest, _ = workplace.done(task)
    assert workplace.progress == sorted(workplace.progress)
    assert len(set(workplace.progress)) > 10
    assert history(workplace.store, f"tasks/{digest}")[-1].ended is not None


@given(limit=st.integers(1, 3000))
@settings(max_examples=25)
def test_limit_selects_whole_documents_in_reading_order(reference: tuple[Workplace, Path, bytes], limit: int) -> None:
    workplace, path, _ = reference
    files = sorted((hashlib.sha256(file.read_bytes()).hexdigest(), file) for file in path.iterdir())
    in_order = [json.loads(line)["text"] for _, file in files for line in file.read_text().splitlines()]
    expected, held_out, tokens = Counter[str](), set[str](), 0
    for text in in_order:
        tokens += 0 if is_held_out(text) else len(text.encode()) + 1
        if tokens > limit:
            break
        if is_held_out(text):
            held_out.add(text)
        else:
            expected[text] += 1
    if not expected:
        with pytest.raises(TaskRefused, match=rf"its limit of {limit:,} tokens is shorter than its first document"):
            workplace.attempt(workplace.task(path, limit=limit))
        return
    digest, outcome = workplace.done(workplace.task(path, limit=limit))
    prepared = Prepared(PreparedSource.open(workplace.store, digest, workplace.folder / "cache"), outcome)
    assert Counter(prepared.texts) == expected
    assert set(prepared.held_out) == held_out
    assert int(prepared.results["tokens"]) <= limit
