"""Suite `continuation`: choose the true continuation of a held-out document among several.

Every held-out document that is long enough is an item. Its first tokens are the context, the tokens after them the true continuation. The
wrong continuations are the tokens at the same position of other documents of the source, so that all have the same length and are
compared by their sums of log-likelihoods. Chance level is 1 / choices. All random draws use SHA-256 of the seed and the documents'
hashes, so the items are the same on every machine and Python version.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract.vocabulary import ACCURACY
from orchestrator.errors import TaskRefused
from trainer.evaluate.bits_per_byte import HeldOut
from trainer.evaluate.items import Row, Sequence

DRAWS_PER_CHOICE: Final = 64
"""Draws per choice, after which an item is dropped if the continuations found are all the same, as in licence texts."""


@dataclass(frozen=True, slots=True)
class Question:
    """One item: `choices` all have the same number of tokens, `truth` is the index of the correct one."""

    item: str
    context: NDArray[np.int64]
    choices: list[NDArray[np.int64]]
    truth: int


@dataclass(frozen=True, slots=True)
class Continuation:
    """The benchmark of this suite. `text_bytes` returns the size in bytes of the text of token ids."""

    questions: list[Question]
    text_bytes: Callable[[list[int]], int]
    name: str = "continuation"

    def sequences(self) -> list[Sequence]:
        return [
            Sequence(np.concatenate([question.context, choice]), len(choice)) for question in self.questions for choice in question.choices
        ]

    def rows(self, log_likelihoods: list[float]) -> list[Row]:
        scores = iter(log_likelihoods)
        return [self._row(question, [next(scores) for _ in question.choices]) for question in self.questions]

    def results(self, rows: list[Row]) -> dict[str, float | int | str]:
        correct = sum(row.correct is True for row in rows)
        return {ACCURACY: correct / len(rows), "correct": correct, "items": len(rows), "choices": len(rows[0].log_likelihoods)}

    def _row(self, question: Question, scores: list[float]) -> Row:
        prediction = max(range(len(scores)), key=scores.__getitem__)
        sizes = [self.text_bytes(choice.tolist()) for choice in question.choices]
        return Row(self.name, question.item, prediction, prediction == question.truth, scores, sizes, [len(c) for c in question.choices])


def questions(documents: list[HeldOut], end_of_text: int, *, context: int, continuation: int, choices: int, seed: int) -> list[Question]:
    """Return the items made from `documents`, in their order. Raises TaskRefused if there are none."""
    eligible = [document for document in documents if len(document.ids) >= context + continuation]
    made = [_question(eligible, index, end_of_text, context, continuation, choices, seed) for index in range(len(eligible))]
    kept = [question for question in made if question is not None]
    if not kept:
        raise TaskRefused(
            f"{len(eligible)} of {len(documents)} held-out documents have the {context} + {continuation} tokens of an item, and an "
            f"item needs {choices} of them with different continuations; shorten the items or hold out more documents"
        )
    return kept


def _question(
    eligible: list[HeldOut], index: int, end_of_text: int, context: int, continuation: int, choices: int, seed: int
) -> Question | None:
    own = eligible[index]
    ids = [np.asarray(own.ids[: context + continuation], dtype=np.int64)]
    answers = {ids[0][context:].tobytes()}
    wrong: list[NDArray[np.int64]] = []
    for draw in _draws(seed, own.hash, len(eligible), DRAWS_PER_CHOICE * choices):
        if len(wrong) == choices - 1:
            break
        other = np.asarray(eligible[draw].ids[context : context + continuation], dtype=np.int64)
        if other.tobytes() not in answers:
            answers.add(other.tobytes())
            wrong.append(other)
    if len(wrong) < choices - 1:
        return None
    truth = _number(seed, own.hash, "place") % choices
    return Question(own.hash, np.concatenate([[end_of_text], ids[0][:context]]), [*wrong[:truth], ids[0][context:], *wrong[truth:]], truth)


def _draws(seed: int, item: str, among: int, at_most: int) -> Iterator[int]:
    return (_number(seed, item, str(draw)) % among for draw in range(at_most))


def _number(seed: int, item: str, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{item}:{what}".encode()).digest()[:8])
