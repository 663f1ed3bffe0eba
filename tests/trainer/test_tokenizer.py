"""Tokenizers: trained on the stated bytes of every source, or given as a file."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from trainer.context import Context, Outcome, Stopped
from trainer.prepare.tokenizer import END_OF_TEXT, load_tokenizer

from orchestrator.contract.events import Placement
from orchestrator.contract.tasks import TokenizerTask
from orchestrator.errors import KeyMissing, TaskRefused
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.memory import in_memory_store
from tests.trainer.workplace import (
    ONE_IN,
    READER,
    Workplace,
    byte_tokenizer,
    held_out_of,
    is_held_out,
    lines_of,
    new_workplace,
    synthetic_documents,
)

VOCABULARY = 300


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return new_workplace(in_memory_store(), tmp_path)


def tokenizer_task(workplace: Workplace, weights: dict[Path, int], vocabulary: int = VOCABULARY, byte_count: int = 4000) -> TokenizerTask:
    sources = sorted((workplace.source(path), READER, weight) for path, weight in weights.items())
    return TokenizerTask(vocabulary, byte_count, ONE_IN, tuple(sources))


def tokenizer_json(workplace: Workplace, outcome: Outcome) -> bytes:
    return workplace.store.objects.get(outcome.artifacts["tokenizer"].key)


def sentences(topic: str, count: int = 200) -> list[str]:
    return [f"{topic} {number % 7} and {topic}s of the {topic}ing kind, number {number}" for number in range(count)]


def test_vocabulary_has_exactly_the_requested_size(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(sentences("river")))
    digest, outcome = workplace.done(tokenizer_task(workplace, {path: 1}))
    library = Tokenizer.from_str(tokenizer_json(workplace, outcome).decode())
    assert library.get_vocab_size() == outcome.results["vocabulary"] == VOCABULARY
    assert library.token_to_id(END_OF_TEXT) is not None
    text = "any text at all: ünïcode, 漢字, \t\r\n and 🦀"
    assert library.decode(library.encode(text).ids) == text
    prepared = workplace.prepared(path, tokenizer=digest)
    assert (prepared.source.vocabulary, prepared.source.end_of_text) == (VOCABULARY, library.token_to_id(END_OF_TEXT))


def test_vocabulary_larger_than_the_text_can_fill_is_refused(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(sentences("river")))
    with pytest.raises(TaskRefused, match=r"bytes of text only fill a vocabulary of \d{3}, but 5,000 were requested"):
        workplace.attempt(tokenizer_task(workplace, {path: 1}, vocabulary=5000))


@pytest.mark.parametrize("vocabulary", [0, 256, 257])
def test_vocabulary_without_room_for_a_merge_is_refused(vocabulary: int, workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(sentences("river")))
    with pytest.raises(TaskRefused, match=f"a vocabulary of {vocabulary} is too small"):
        workplace.attempt(tokenizer_task(workplace, {path: 1}, vocabulary=vocabulary))


def test_tokenizer_does_not_depend_on_threads_or_attempt(workplace: Workplace) -> None:
    paths = {workplace.write(f"{topic}.jsonl", lines_of(sentences(topic))): 1 for topic in ("river", "tower", "engine")}
    task = tokenizer_task(workplace, paths)
    outcomes = [workplace.attempt(task, threads=threads) for threads in (1, 1, 3)]
    assert len({tokenizer_json(workplace, outcome) for outcome in outcomes}) == 1
    assert len({str(outcome.results) for outcome in outcomes}) == 1


@pytest.mark.parametrize(("river", "tower"), [(1, 1), (9, 1), (1, 9)])
def test_sampled_bytes_are_divided_by_weight(river: int, tower: int, workplace: Workplace) -> None:
    """The words of the source with the larger weight are merged first, so its text is encoded as fewer tokens."""
    paths = {
        workplace.write("river.jsonl", lines_of(sentences("river"))): river,
        workplace.write("tower.jsonl", lines_of(sentences("tower"))): tower,
    }
    outcome = workplace.attempt(tokenizer_task(workplace, paths, vocabulary=280, byte_count=4000))
    library = Tokenizer.from_str(tokenizer_json(workplace, outcome).decode())
    lengths = {topic: sum(len(library.encode(text).ids) for text in sentences(topic)) for topic in ("river", "tower")}
    assert 4000 <= int(outcome.results["bytes"]) < 4000 + 2 * 100
    if river != tower:
        assert (lengths["river"] < lengths["tower"]) == (river > tower)


def test_sample_contains_documents_of_all_files(workplace: Workplace) -> None:
    for number in range(20):
        workplace.write(f"tree/{number}.jsonl", lines_of(sentences(f"topic{chr(97 + number) * 5}", 30)))
    outcome = workplace.attempt(tokenizer_task(workplace, {workplace.folder / "tree": 1}, vocabulary=350))
    words = " ".join(Tokenizer.from_str(tokenizer_json(workplace, outcome).decode()).get_vocab())
    assert sum(chr(97 + number) * 3 in words for number in range(20)) > 12


def test_held_out_documents_do_not_affect_the_tokenizer(workplace: Workplace) -> None:
    texts = sentences("river")
    assert held_out_of(texts)
    with_them = workplace.write("all.jsonl", lines_of(texts))
    without = workplace.write("rest.jsonl", lines_of(text for text in texts if not is_held_out(text)))
    outcomes = [workplace.attempt(tokenizer_task(workplace, {path: 1}, byte_count=10**6)) for path in (with_them, without)]
    assert tokenizer_json(workplace, outcomes[0]) == tokenizer_json(workplace, outcomes[1])
    assert outcomes[0].results == outcomes[1].results


@pytest.mark.parametrize("text", ["", '{"text": ""}\n'])
def test_empty_source_is_refused_by_name(text: str, workplace: Workplace) -> None:
    full, empty = workplace.write("full.jsonl", lines_of(sentences("river"))), workplace.write("empty.jsonl", text or "\n")
    with pytest.raises(TaskRefused, match=r"empty\.jsonl"):
        workplace.attempt(tokenizer_task(workplace, {full: 1, empty: 1}))


def test_changed_source_is_refused(workplace: Workplace) -> None:
    path = workplace.write("a.jsonl", lines_of(sentences("river")))
    task = tokenizer_task(workplace, {path: 1})
    workplace.write("a.jsonl", lines_of(sentences("tower")))
    with pytest.raises(TaskRefused, match=f"the task was planned for {task.sources[0][0]}"):
        workplace.attempt(task)


@pytest.mark.parametrize("asked", [0, 1, 50, 250])
def test_training_stops_on_request(asked: int, workplace: Workplace) -> None:
    task = tokenizer_task(workplace, {workplace.write("a.jsonl", lines_of(sentences("river"))): 1}, byte_count=10**6)
    answers = iter([False] * asked)
    with pytest.raises(Stopped):
        workplace.attempt(task, stop=lambda: next(answers, True))


def load(workplace: Workplace, content: bytes, name: str = "") -> "tuple[int, int]":
    path = workplace.write("given.json", content)
    name = name or f"file:{hashlib.sha256(content).hexdigest()}"
    workplace.inputs[name] = [str(path)]
    task = tokenizer_task(workplace, {})
    lease = acquire(workplace.store, "tasks/x", "x", Holder())
    context = Context(workplace.store, "x", task, lease, Placement(inputs=workplace.inputs), workplace.folder / "cache")
    tokenizer = load_tokenizer(context, name)
    return tokenizer.vocabulary, tokenizer.end_of_text


@pytest.mark.parametrize("end_of_text", [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>"])
def test_end_of_text_token_is_found_by_name(end_of_text: str, workplace: Workplace) -> None:
    assert load(workplace, byte_tokenizer(end_of_text)) == (257, 256)


def test_vocabulary_extends_to_the_highest_id(workplace: Workplace) -> None:
    library = Tokenizer(models.WordLevel({END_OF_TEXT: 0, "far": 70_000}, END_OF_TEXT))
    assert load(workplace, library.to_str().encode()) == (70_001, 0)


BAD_FILES = [
    (byte_tokenizer("<pad>"), "has no end-of-text token; it must contain one of"),
    (b'{"not": "a tokenizer"}', "is not a tokenizer.json"),
    (b"\xff\xfe", "is not a tokenizer.json"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=["no end-of-text token", "other JSON", "not UTF-8"])
def test_invalid_tokenizer_file_is_refused(content: bytes, message: str, workplace: Workplace) -> None:
    with pytest.raises(TaskRefused, match=rf"given\.json: {message}"):
        load(workplace, content)


def test_tokenizer_file_with_another_hash_is_refused(workplace: Workplace) -> None:
    with pytest.raises(TaskRefused, match=rf"given\.json: its SHA-256 is \w+, but the task was planned for file:{'0' * 64}"):
        load(workplace, byte_tokenizer(), "file:" + "0" * 64)


def test_untrained_tokenizer_raises_key_missing(workplace: Workplace) -> None:
    task = workplace.task(workplace.write("a.jsonl", lines_of(synthetic_documents(9))), tokenizer="ab" * 32)
    with pytest.raises(KeyMissing, match="has no record yet"):
        workplace.attempt(task)


def test_truncation_and_padding_of_a_tokenizer_file_are_ignored(workplace: Workplace) -> None:
    document = json.loads(byte_tokenizer())
    document["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 900},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    content = json.dumps(document).encode()
    name = f"file:{hashlib.sha256(content).hexdigest()}"
    workplace.inputs[name] = [str(workplace.write("given.json", content))]
    texts = synthetic_documents(20)
    prepared = workplace.prepared(workplace.write("a.jsonl", lines_of(texts)), tokenizer=name, held_out_one_in=10**6)
    assert sorted(prepared.texts) == sorted(texts)


@settings(max_examples=30)
@given(words=st.lists(st.text("abcé漢 .\n\t0_", max_size=8), max_size=60), max_part=st.integers(1, 40))
def test_parts_of_a_long_text_decode_to_the_text(words: list[str], max_part: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("parts")
    workplace = new_workplace(in_memory_store(), folder)
    digest, _ = workplace.done(tokenizer_task(workplace, {workplace.write("a.jsonl", lines_of(sentences("river"))): 1}))
    lease = acquire(workplace.store, "tasks/x", "x", Holder())
    context = Context(workplace.store, "x", tokenizer_task(workplace, {}), lease, Placement(), folder)
    whole = load_tokenizer(context, digest)
    text = "the river and the tower " + " ".join(words)
    parts = replace(whole, max_part=max_part).ids([text, text])
    assert whole.library.decode(parts[0]) == text
    assert parts[0] == parts[1]


def test_splitting_a_long_text_between_words_does_not_change_its_tokens(workplace: Workplace) -> None:
    digest, _ = workplace.done(tokenizer_task(workplace, {workplace.write("a.jsonl", lines_of(sentences("river"))): 1}))
    lease = acquire(workplace.store, "tasks/x", "x", Holder())
    context = Context(workplace.store, "x", tokenizer_task(workplace, {}), lease, Placement(), workplace.folder)
    whole = load_tokenizer(context, digest)
    text = "the river and the tower of the engine, " * 50
    assert replace(whole, max_part=100).ids([text]) == whole.ids([text])
