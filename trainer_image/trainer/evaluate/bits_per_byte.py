"""Suite `bpb`: bits per byte of a source's held-out documents.

Sum of nats / (ln 2 x bytes of the target text). Each document starts with an end-of-text token, which is not scored. A long document is
scored in pieces of T targets; each piece starts with the last token of the previous one. The sum is divided by bytes, not tokens, so that
models with different tokenizers can be compared.
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
    """A held-out document: hash of its content, size in bytes of UTF-8, token ids."""

    @property
    def hash(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.integer]: ...


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """The benchmark of this suite. `window` is T, the largest number of targets per piece."""

    documents: list[HeldOut]
    end_of_text: int
    window: int
    name: str = "bpb"

    def sequences(self) -> list[Sequence]:
        return [piece for document in self.documents for piece in self._pieces(document)]

    def rows(self, log_likelihoods: list[float]) -> list[Row]:
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
                "the source has no held-out text, so bits per byte are undefined; add documents to the source or lower heldOut.oneIn"
            )
        tokens = sum(sum(row.tokens) for row in rows)
        return {BITS_PER_BYTE: nats / (log(2) * text_bytes), "nats": nats, "bytes": text_bytes, "tokens": tokens, "documents": len(rows)}

    def _pieces(self, document: HeldOut) -> list[Sequence]:
        ids = np.concatenate([[self.end_of_text], document.ids]).astype(np.int64)
        starts = range(0, len(document.ids), self.window)
        return [Sequence(piece, len(piece) - 1) for piece in (ids[start : start + self.window + 1] for start in starts)]
