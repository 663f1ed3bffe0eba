"""Evaluation suites: bits per byte against a slow reference, accuracy against chance, and the rows of items."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log, log2, sqrt
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from trainer.context import Context, Stopped
from trainer.evaluate import items, suites
from trainer.evaluate.bits_per_byte import BitsPerByte, HeldOut
from trainer.evaluate.continuation import Continuation, questions
from trainer.evaluate.items import Benchmark, Row, Sequence
from trainer.evaluate.likelihood import LOGITS_PER_BATCH, log_likelihoods
from trainer.model.transformer import initialised

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.tasks import EvaluateTask, FromInitialisation, Shape
from orchestrator.contract.vocabulary import ACCURACY, BITS_PER_BYTE
from orchestrator.errors import TaskRefused
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.memory import in_memory_store
from tests.trainer.prepared import publish

VOCABULARY = 64
END_OF_TEXT = 0
CPU = torch.device("cpu")
SHAPE = Shape(width=16, layers=2, heads=2, feed_forward=32, vocabulary=VOCABULARY, tied=True, rope_theta=10000, norm_eps="1e-5")


@dataclass(frozen=True)
class Document:
    hash: str
    bytes: int
    ids: NDArray[np.uint16]


def document(number: int, ids: list[int]) -> HeldOut:
    return Document(hashlib.sha256(f"{number}:{ids}".encode()).hexdigest(), 3 * len(ids), np.array(ids, dtype=np.uint16))


def random_documents(count: int, length: int, seed: int = 1) -> list[HeldOut]:
    generator = np.random.default_rng(seed)
    return [document(number, generator.integers(1, VOCABULARY, length).tolist()) for number in range(count)]


def random_logits(seed: int = 1) -> Callable[[Tensor], Tensor]:
    return initialised(FromInitialisation(SHAPE, seed, "0.5")).eval().logits


def uniform_logits(ids: Tensor) -> Tensor:
    return torch.zeros(*ids.shape, VOCABULARY)


def counting_logits(ids: Tensor) -> Tensor:
    """Logits of a model that predicts the next number after every token."""
    return 20.0 * torch.nn.functional.one_hot((ids + 1) % VOCABULARY, VOCABULARY).float()


def score(benchmark: Benchmark, logits: Callable[[Tensor], Tensor]) -> tuple[list[Row], dict[str, float | int | str]]:
    rows = benchmark.rows(log_likelihoods(logits, benchmark.sequences(), VOCABULARY, CPU, lambda _: None))
    return rows, benchmark.results(rows)


def reference_nats(logits: Callable[[Tensor], Tensor], ids: list[int], window: int) -> float:
    """Return the nats of a text, with one forward pass per token over the tokens before it in its piece."""
    text, total = [END_OF_TEXT, *ids], 0.0
    for target in range(1, len(text)):
        first = (target - 1) // window * window
        with torch.no_grad():
            predicted = logits(torch.tensor([text[first:target]]))[0, -1].double()
        total -= torch.log_softmax(predicted, 0)[text[target]].item()
    return total


@pytest.mark.parametrize("window", [1, 5, 8, 100])
def test_bits_per_byte_equal_a_reference_with_one_pass_per_token(window: int) -> None:
    logits = random_logits()
    documents = [document(n, ids) for n, ids in enumerate([[3], [1, 2, 3, 4, 5], list(range(1, 17)), [7] * 11])]

    rows, results = score(BitsPerByte(documents, END_OF_TEXT, window), logits)

    expected = [reference_nats(logits, [int(i) for i in one.ids], window) for one in documents]
    assert [row.nats for row in rows] == pytest.approx(expected, rel=1e-5)
    assert results[BITS_PER_BYTE] == pytest.approx(sum(expected) / (log(2) * sum(one.bytes for one in documents)), rel=1e-5)
    assert (results["tokens"], results["bytes"], results["documents"]) == (33, 99, 4)


def test_uniform_model_needs_log_of_vocabulary_size() -> None:
    documents = random_documents(20, 50)

    _, results = score(BitsPerByte(documents, END_OF_TEXT, 16), uniform_logits)

    assert results[BITS_PER_BYTE] == pytest.approx(log2(VOCABULARY) * 1000 / 3000, rel=1e-6)


def test_rows_have_the_nats_of_each_document() -> None:
    documents = [document(1, [1, 2, 3]), document(2, [9] * 7)]

    rows, _ = score(BitsPerByte(documents, END_OF_TEXT, 4), uniform_logits)

    assert [(row.item, row.bytes, row.tokens, row.correct) for row in rows] == [
        (documents[0].hash, [9], [3], None),
        (documents[1].hash, [21], [7], None),
    ]
    assert [row.nats for row in rows] == pytest.approx([3 * log(VOCABULARY), 7 * log(VOCABULARY)])


def test_empty_document_has_no_nats_and_an_empty_source_is_refused() -> None:
    rows, results = score(BitsPerByte([document(1, []), document(2, [1])], END_OF_TEXT, 4), uniform_logits)
    assert [row.nats for row in rows] == pytest.approx([0, log(VOCABULARY)])
    assert results["documents"] == 2

    with pytest.raises(TaskRefused, match="no held-out text"):
        score(BitsPerByte([], END_OF_TEXT, 4), uniform_logits)


@settings(max_examples=50)
@given(length=st.integers(0, 40), window=st.integers(1, 12))
def test_pieces_cover_each_token_once_within_the_window(length: int, window: int) -> None:
    ids = list(range(1, length + 1))

    pieces = BitsPerByte([document(1, ids)], END_OF_TEXT, window).sequences()

    assert [int(token) for piece in pieces for token in piece.ids[-piece.scored :]] == ids
    assert all(piece.scored == len(piece.ids) - 1 <= window for piece in pieces)
    assert all(piece.ids[0] == before.ids[-1] for before, piece in pairwise(pieces))
    assert not pieces or pieces[0].ids[0] == END_OF_TEXT


def test_batch_size_does_not_change_scores() -> None:
    generator = np.random.default_rng(3)
    sequences = [Sequence(generator.integers(0, VOCABULARY, n), int(generator.integers(1, n))) for n in generator.integers(2, 60, 40)]
    logits = random_logits()

    together = log_likelihoods(logits, sequences, VOCABULARY, CPU, lambda _: None)
    alone = [log_likelihoods(logits, [one], VOCABULARY, CPU, lambda _: None)[0] for one in sequences]

    assert together == pytest.approx(alone, rel=1e-5)


def test_context_tokens_are_not_scored() -> None:
    sequences = [Sequence(np.arange(n + 2), scored) for n, scored in ((5, 6), (9, 1), (3, 2))]

    sums = log_likelihoods(uniform_logits, sequences, VOCABULARY, CPU, lambda _: None)

    assert sums == pytest.approx([-6 * log(VOCABULARY), -log(VOCABULARY), -2 * log(VOCABULARY)])


def test_batches_respect_the_logits_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGITS_PER_BATCH, "cpu", 10 * VOCABULARY)
    shapes: list[tuple[int, ...]] = []

    def logits(ids: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        return uniform_logits(ids)

    done: list[int] = []
    log_likelihoods(logits, [Sequence(np.zeros(n, dtype=np.int64), 1) for n in (3, 12, 5, 4)], VOCABULARY, CPU, done.append)

    assert shapes == [(1, 11), (2, 4), (1, 2)]
    assert done == [1, 3, 4]


def make_questions(documents: list[HeldOut], choices: int = 4, seed: int = 5) -> Continuation:
    made = questions(documents, END_OF_TEXT, context=6, continuation=4, choices=choices, seed=seed)
    return Continuation(made, lambda ids: 2 * len(ids))


def test_random_model_scores_at_chance() -> None:
    rows, results = score(make_questions(random_documents(400, 12)), random_logits())

    deviation = sqrt(0.25 * 0.75 / 400)
    assert abs(float(results[ACCURACY]) - 0.25) < 3 * deviation
    assert results["items"] == len(rows) == 400
    assert results["correct"] == sum(row.correct is True for row in rows)


def test_uniform_model_scores_at_chance() -> None:
    _, results = score(make_questions(random_documents(400, 12)), uniform_logits)

    assert abs(float(results[ACCURACY]) - 0.25) < 3 * sqrt(0.25 * 0.75 / 400)


def test_perfect_model_chooses_correctly() -> None:
    documents = [document(n, [(n + step) % (VOCABULARY - 1) + 1 for step in range(12)]) for n in range(40)]

    _, results = score(make_questions(documents), counting_logits)

    assert results[ACCURACY] == 1.0


def test_choices_are_distinct_of_one_length_and_one_is_the_true_continuation() -> None:
    documents = random_documents(50, 12)

    for own, question in zip(documents, make_questions(documents).questions, strict=True):
        truth = own.ids[6:10].tolist()
        chosen = [choice.tolist() for choice in question.choices]
        assert question.context.tolist() == [END_OF_TEXT, *own.ids[:6].tolist()]
        assert [len(choice) for choice in chosen] == [4] * 4
        assert len({tuple(choice) for choice in chosen}) == 4
        assert chosen[question.truth] == truth
        assert chosen.count(truth) == 1


def test_items_depend_only_on_documents_and_seed() -> None:
    def drawn(seed: int) -> list[list[list[int]]]:
        return [
            [choice.tolist() for choice in question.choices] for question in make_questions(random_documents(30, 12), seed=seed).questions
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_items_equal_the_recorded_ones() -> None:
    """The items are part of the task's identity: a change of the items requires a higher NUMERICS."""
    documents = [document(n, [(n * n + 7 * step) % (VOCABULARY - 1) + 1 for step in range(12)]) for n in range(30)]

    items_made = make_questions(documents).questions

    assert [question.truth for question in items_made[:12]] == [3, 1, 2, 3, 2, 2, 1, 2, 2, 3, 0, 3]
    assert [choice[0] for question in items_made[:3] for choice in question.choices] == [17, 44, 2, 43, 23, 44, 17, 5, 16, 52, 47, 43]


def test_document_without_distinct_continuations_makes_no_item() -> None:
    same = [document(n, [n + 1] * 6 + [9, 9, 9, 9]) for n in range(8)]
    different = random_documents(5, 12)

    items_made = make_questions([*same, *different]).questions

    assert {question.item for question in items_made} == {one.hash for one in [*same, *different]}
    with pytest.raises(TaskRefused, match="different continuations"):
        make_questions(same)


@pytest.mark.parametrize("documents", [[], random_documents(20, 9), random_documents(3, 12)], ids=["none", "too short", "too few"])
def test_source_without_an_item_is_refused(documents: list[HeldOut]) -> None:
    with pytest.raises(TaskRefused, match="held-out documents"):
        make_questions(documents)


ITEMS = {
    "bpb": {"documents": 2, "window": 8},
    "continuation": {"documents": 2, "context": 4, "continuation": 2, "choices": 2, "seed": 1},
}


@pytest.mark.parametrize("suite", ITEMS)
def test_evaluation_can_be_stopped_while_it_fetches(suite: str, tmp_path: Path) -> None:
    store = in_memory_store()
    source = publish(store, 0, range(50), [[1, 2, 3, 4, 5, 6, 7, 8 + number] for number in range(20)], shard_tokens=20)
    task = EvaluateTask("0" * 64, 64, suite, {"source": source, **ITEMS[suite]}, NUMERICS)
    lease = acquire(store, "tasks/0", "0", Holder())
    with pytest.raises(Stopped, match="while it fetched"):
        suites.benchmarks(Context(store, "0", task, lease, Placement(), tmp_path, stop=lambda: True), task)


def test_rows_are_written_per_item(tmp_path: Path) -> None:
    rows, _ = score(make_questions(random_documents(10, 12)), random_logits())

    items.write(rows, tmp_path / "items.parquet")

    table = pq.read_table(tmp_path / "items.parquet").to_pylist()
    assert [entry["item"] for entry in table] == [row.item for row in rows]
    first = table[0]
    assert first["benchmark"] == "continuation"
    assert first["prediction"] == int(np.argmax(first["log_likelihoods"]))
    assert first["correct"] is rows[0].correct
    assert (first["bytes"], first["tokens"]) == ([8] * 4, [4] * 4)
