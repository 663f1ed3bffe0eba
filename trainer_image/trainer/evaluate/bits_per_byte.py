"""Suite `bpb`: bits per byte of a source's held-out documents.

Sum of nats / (ln 2 x bytes of the target text). Each document starts from an end-of-text token; a long one is scored in pieces of T
targets, each of which begins with the last token of the piece before it. The end-of-text itself is not counted. Bytes, not tokens,
divide the sum, so that models with different tokenizers can be compared.
"""

from dataclasses import dataclass
from math import ceil, log
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract.vocabulary import BITS_PER_BYTE
from orchestrator.errors import TaskRefused
from trainer.evaluate.items import Row, Sequence


class HeldOut(Protocol):
    """A document that no model has been trained on: the hash of its content, its size in bytes of UTF-8, its token ids."""

    @property
    def hash(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.integer]: ...


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """`window` is T: how many targets a piece has at most."""

    documents: list[HeldOut]
    end_of_text: int
    window: int
    name: str = "bpb"

    def sequences(self) -> list[Sequence]:
        return [piece for document in self.documents for piece in self._pieces(document)]

    def judge(self, log_likelihoods: list[float]) -> list[Row]:
        rows, first = [], 0
        for document in self.documents:
            tokens = len(document.ids)
            last = first + ceil(tokens / self.window)
            total = sum(log_likelihoods[first:last])
            rows.append(Row(self.name, document.hash, None, None, [total], [document.bytes], [tokens]))
            first = last
        return rows

    def results(self, rows: list[Row]) -> dict[str, float | int | str]:
        nats, text_bytes = sum(row.nats for row in rows), sum(sum(row.bytes) for row in rows)
        if not text_bytes:
            raise TaskRefused(
                "the source has no held-out text, so its bits per byte cannot be told; give it more documents, or lower heldOut.oneIn"
            )
        tokens = sum(sum(row.tokens) for row in rows)
        return {BITS_PER_BYTE: nats / (log(2) * text_bytes), "nats": nats, "bytes": text_bytes, "tokens": tokens, "documents": len(rows)}

    def _pieces(self, document: HeldOut) -> list[Sequence]:
        ids = np.concatenate([[self.end_of_text], document.ids]).astype(np.int64)
        starts = range(0, len(document.ids), self.window)
        return [Sequence(piece, len(piece) - 1) for piece in (ids[start : start + self.window + 1] for start in starts)]
