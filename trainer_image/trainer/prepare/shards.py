"""Merge pieces into shards: documents in final order, in files of equal size, with one row per document.

`tokens` calls it for training documents and for held-out documents. Pieces are sorted runs, so they are merged in key ranges that fit in
memory; equal keys keep the reading order. The shards do not depend on piece boundaries.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from orchestrator.contract.record import Artifact
from orchestrator.store import Store
from orchestrator.store.artifacts import write_bytes, write_file
from orchestrator.store.leases import Lease
from trainer.prepare.manifest import DOCUMENT_ROW, Section
from trainer.prepare.pieces import PIECE_ROW, Run, Tokens

_KEYS: Final = 1 << 64


def merged(runs: Sequence[Run], range_tokens: int) -> Iterator[tuple[np.void, Tokens]]:
    """Yield row and token ids of every document, sorted by key and then by run. About `range_tokens` tokens are in memory at a time."""
    total = sum(int(run.rows["tokens"].sum()) for run in runs)
    ranges = max(1, -(-total // range_tokens))
    bounds = np.array([_KEYS * number // ranges for number in range(ranges)], dtype=np.uint64)
    cuts = [np.append(np.searchsorted(run.rows["key"], bounds), len(run.rows)) for run in runs]
    for number in range(ranges):
        parts = [run.rows[cut[number] : cut[number + 1]] for run, cut in zip(runs, cuts, strict=True)]
        owners = np.repeat(np.arange(len(runs)), [len(part) for part in parts])
        rows = np.concatenate(parts) if parts else np.zeros(0, PIECE_ROW)
        for place in np.argsort(rows["key"], kind="stable"):
            row = rows[place]
            start = int(row["start"])
            yield row, runs[owners[place]].ids[start : start + int(row["tokens"])]


def deduplicated(documents: Iterable[tuple[np.void, Tokens]]) -> Iterator[tuple[np.void, Tokens]]:
    """Yield held-out documents, sorted by key, without repeated texts. Keys are prefixes of the hash, so copies share a key."""
    key, seen = -1, set[bytes]()
    for row, ids in documents:
        if int(row["key"]) != key:
            key, seen = int(row["key"]), set()
        if row["hash"].tobytes() not in seen:
            seen.add(row["hash"].tobytes())
            yield row, ids


class SectionWriter(AbstractContextManager["SectionWriter"]):
    """Writes one section of a prepared source to the attempt's folder, shard by shard. `folder`: local folder for the open shard."""

    def __init__(self, store: Store, lease: Lease, name: str, shard_tokens: int, folder: Path) -> None:
        self._store, self._lease, self._name = store, lease, name
        self._shard_tokens = shard_tokens
        self._staged = folder / f"{name}.bin"
        self._open: BinaryIO | None = None
        self._rows: list[tuple[int, int, int, Any]] = []
        self._tokens = self._bytes = self._documents = 0
        self._shards: list[Artifact] = []
        self._documents_files: list[Artifact] = []

    def __exit__(self, *problem: object) -> None:
        if self._open is not None:
            self._open.close()

    def add(self, row: np.void, ids: Tokens) -> None:
        """Append a document."""
        self._rows.append((self._tokens, len(ids), int(row["bytes"]), row["hash"]))
        self._documents += 1
        self._bytes += int(row["bytes"])
        while len(ids):
            room = self._shard_tokens - self._tokens % self._shard_tokens
            self._write(ids[:room])
            ids = ids[room:]

    def close(self) -> Section:
        """Finish the last shard and return the section."""
        if self._open is not None:
            self._finish_shard()
        return Section(
            tokens=self._tokens, documents=self._documents, bytes=self._bytes, shard_tokens=self._shard_tokens,
            shards=self._shards, documents_files=self._documents_files,
        )  # fmt: skip

    def _write(self, ids: Tokens) -> None:
        if self._open is None:
            self._open = self._staged.open("wb")
        self._open.write(ids.tobytes())
        self._tokens += len(ids)
        if self._tokens % self._shard_tokens == 0:
            self._finish_shard()

    def _finish_shard(self) -> None:
        assert self._open is not None
        self._open.close()
        self._open = None
        name = f"{self._name}-{len(self._shards):05d}"
        self._shards.append(write_file(self._store, self._lease.key("shards", f"{name}.bin"), self._staged))
        rows = np.array(self._rows, dtype=DOCUMENT_ROW)
        self._documents_files.append(write_bytes(self._store, self._lease.key("shards", f"{name}.documents"), rows.tobytes()))
        self._rows.clear()
        self._staged.unlink()
