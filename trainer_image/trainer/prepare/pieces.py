"""Pieces: tokenised runs of consecutive documents in the attempt's folder, which a restarted prepare task reuses.

`tokens` writes them in reading order, each with a manifest that is written last; `shards` merges them. Inside a piece, training documents
are sorted by key and held-out documents by hash, so that a piece is a sorted run. Piece boundaries do not affect the result.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store import Store
from orchestrator.store.addresses import attempt_key
from orchestrator.store.artifacts import fetch, write_bytes
from orchestrator.store.documents import parse_model
from orchestrator.store.leases import Lease
from trainer.prepare.documents import START, Document, Position

PIECE_ROW: Final = np.dtype([("key", "<u8"), ("start", "<u8"), ("tokens", "<u8"), ("bytes", "<u8"), ("hash", "u1", (32,))])

Tokens: TypeAlias = NDArray[np.unsignedinteger[Any]]
Rows: TypeAlias = NDArray[np.void]


class Piece(BaseModel):
    """The manifest of a piece. `rows` contains `documents` training rows, then `held_out` rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    start: Position
    end: Position
    is_last: bool
    training_tokens: int
    documents: int
    held_out: int
    skipped: dict[str, int]
    ids: Artifact
    rows: Artifact


@dataclass
class PieceBuilder:
    """Collects tokenised documents until `write`."""

    start: Position
    dtype: np.dtype[Any]
    end_of_text: int
    bytes: int = 0
    training_tokens: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    _training: list[tuple[Document, Tokens]] = field(default_factory=list)
    _held_out: list[tuple[Document, Tokens]] = field(default_factory=list)

    def add(self, document: Document, ids: Sequence[int]) -> None:
        """Add a document; its text is dropped."""
        closed = ids if document.is_held_out else [*ids, self.end_of_text]
        entry = (_without_text(document), np.array(closed, dtype=self.dtype))
        (self._held_out if document.is_held_out else self._training).append(entry)
        self.bytes += document.size
        self.training_tokens += 0 if document.is_held_out else len(closed)

    def write(self, store: Store, lease: Lease, end: Position, is_last: bool) -> Piece:
        """Write the piece to the attempt's folder, its manifest last."""
        self._training.sort(key=lambda entry: entry[0].key)
        self._held_out.sort(key=lambda entry: entry[0].hash)
        entries = [*self._training, *self._held_out]
        name = f"{self.start.file:09d}-{self.start.record:012d}"
        ids = np.concatenate([tokens for _, tokens in entries]) if entries else np.zeros(0, self.dtype)
        piece = Piece(
            start=self.start, end=end, is_last=is_last, training_tokens=self.training_tokens, documents=len(self._training),
            held_out=len(self._held_out), skipped=dict(self.skipped),
            ids=write_bytes(store, lease.key("pieces", f"{name}.bin"), ids.tobytes()),
            rows=write_bytes(store, lease.key("pieces", f"{name}.rows"), self._rows(entries).tobytes()),
        )  # fmt: skip
        store.objects.put(lease.key("pieces", f"{name}.json"), piece.model_dump_json().encode())
        return piece

    def _rows(self, entries: list[tuple[Document, Tokens]]) -> Rows:
        rows = np.zeros(len(entries), PIECE_ROW)
        lengths = np.array([len(tokens) for _, tokens in entries], dtype=np.uint64)
        rows["start"] = np.cumsum(lengths) - lengths
        rows["tokens"] = lengths
        for row, (document, _) in zip(rows, entries, strict=True):
            # held-out documents are sorted by hash: its first bytes are their key
            row["key"] = int.from_bytes(document.hash[:8], "big") if document.is_held_out else document.key
            row["bytes"] = document.size
            row["hash"] = np.frombuffer(document.hash, np.uint8)
        return rows


def _without_text(document: Document) -> Document:
    return Document("", document.size, document.hash, document.key, document.is_held_out)


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of a piece's documents sorted by key, and the token ids that they index."""

    rows: Rows
    ids: Tokens


def runs_of(store: Store, piece: Piece, dtype: np.dtype[Any], cache: Path) -> tuple[Run, Run]:
    """Return the training and held-out documents of a piece, memory-mapped. Raises Damaged, KeyMissing."""
    ids = mapped(fetch(store, piece.ids, cache), dtype)
    rows = mapped(fetch(store, piece.rows, cache), PIECE_ROW)
    return Run(rows[: piece.documents], ids), Run(rows[piece.documents :], ids)


def mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a file as a memory-mapped array; an empty file, which cannot be mapped, as an empty array."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def pieces_of_earlier_attempts(store: Store, lease: Lease, cache: Path) -> list[Piece]:
    """Return the longest chain of intact pieces of earlier attempts from the source's start, in reading order."""
    chain: list[Piece] = []
    candidates = [piece for number in range(lease.number - 1, 0, -1) for piece in _pieces_of(store, lease.work_root, number)]
    position = START
    while following := next((piece for piece in candidates if piece.start == position and _is_intact(store, piece, cache)), None):
        chain.append(following)
        position = following.end
        if following.is_last:
            break
    return chain


def remove(store: Store, lease: Lease, cache: Path) -> None:
    """Delete the pieces of this and all earlier attempts, and their downloads."""
    shutil.rmtree(cache, ignore_errors=True)
    for number in range(1, lease.number + 1):
        for stat in list(store.objects.list(attempt_key(lease.work_root, number, "pieces"))):
            store.objects.delete(stat.key)


def _pieces_of(store: Store, work_root: str, number: int) -> list[Piece]:
    stats = store.objects.list(attempt_key(work_root, number, "pieces"))
    return [piece for stat in stats if stat.key.endswith(".json") and (piece := _read(store, stat.key)) is not None]


def _read(store: Store, key: str) -> Piece | None:
    try:
        return parse_model(Piece, store.objects.get(key), key, "the manifest of a piece")
    except (Damaged, KeyMissing):
        return None


def _is_intact(store: Store, piece: Piece, cache: Path) -> bool:
    try:
        fetch(store, piece.ids, cache)
        fetch(store, piece.rows, cache)
    except (Damaged, KeyMissing):
        return False
    return True
