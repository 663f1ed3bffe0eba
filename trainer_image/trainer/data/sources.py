"""Prepared sources, and the mixture of sources that a trajectory reads.

Training opens the mixture of its trajectory and reads the batch of each step. Evaluation opens one source and reads its held-out
documents. Both use memory-mapped files whose hashes were checked. There is no loader state: a batch is a function of its step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.contract.mixture import source_of
from orchestrator.contract.record import Artifact
from orchestrator.contract.tasks import Trajectory
from orchestrator.errors import Damaged, KeyMissing, TaskRefused
from orchestrator.store import Store
from orchestrator.store.artifacts import fetch, read_bytes
from orchestrator.store.records import read_record
from trainer.data.order import permutation
from trainer.prepare.manifest import DOCUMENT_ROW, Manifest, Section, read_manifest
from trainer.prepare.pieces import mapped

Ids = NDArray[np.int64]

# Shards are fetched and hashed concurrently before the first step; more threads do not increase disk or network throughput.
_CHECKING_THREADS: Final = 8
# Windows are read in sequence, and computing the order of a thousand windows costs little more than that of one (0.3 ms on one CPU core).
_BLOCK: Final = 1024
# Two epochs of sixteen sources: the blocks that one batch can use.
_BLOCKS_KEPT: Final = 32


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Fetching:
    """Callbacks during the fetching of shards, which may take hours.

    `on_shard` is called once per shard, in the order of the shards, by the thread that opens them. It renews a lease, waits for other
    processes, or raises an exception that ends the fetching. Of the processes that share a cache, one fetches each shard before it calls
    `on_shard`. The others set `follows`: they call `on_shard` first and then find the shard in the cache.
    """

    on_shard: Callable[[], None] = _do_nothing
    follows: bool = False


NO_CALLBACKS: Final = Fetching()


class _Tokens:
    """The tokens of a section across its shards. Shards are checked and mapped when the section is opened."""

    def __init__(self, store: Store, section: Section, dtype: np.dtype[Any], cache: Path, fetching: Fetching) -> None:
        self._shard_tokens = section.shard_tokens
        paths = _fetched(store, section.shards, cache, fetching)
        self._shards = [mapped(path, dtype) for path in paths]
        found = sum(len(shard) for shard in self._shards)
        if found != section.tokens:
            raise Damaged(
                f"{section.shards[0].key} and the other shards hold {found:,} tokens, but their manifest lists {section.tokens:,}"
            )

    def slice(self, start: int, stop: int) -> Ids:
        """Return tokens `start` to `stop` (exclusive) as int64."""
        first, last = start // self._shard_tokens, (stop - 1) // self._shard_tokens
        parts = []
        for number in range(first, last + 1):
            offset = number * self._shard_tokens
            parts.append(self._shards[number][max(start - offset, 0) : stop - offset])
        return np.concatenate(parts, dtype=np.int64, casting="safe") if parts else np.zeros(0, np.int64)


def _fetched(store: Store, shards: Sequence[Artifact], cache: Path, fetching: Fetching) -> list[Path]:
    threads, futures = ThreadPoolExecutor(_CHECKING_THREADS), list[Future[Path]]()
    try:
        if not fetching.follows:
            futures = [threads.submit(fetch, store, shard, cache) for shard in shards]
        for number, shard in enumerate(shards):
            if not fetching.follows:
                futures[number].result()
            fetching.on_shard()
            if fetching.follows:
                futures.append(threads.submit(fetch, store, shard, cache))
        return [path.result() for path in futures]
    finally:
        threads.shutdown(cancel_futures=True)  # an exception must not wait for the remaining shards


@dataclass(frozen=True, slots=True)
class HeldOutDocument:
    """A document that is not trained on.

    `hash`: SHA-256 of its text in UTF-8, 64 hex digits; `bytes`: size of that text; `ids` (tokens,) int64, without an end-of-text token.
    """

    hash: str
    bytes: int
    ids: Ids


class PreparedSource:
    """A prepared source: its training tokens as windows, and its held-out documents."""

    def __init__(self, store: Store, digest: str, manifest: Manifest, cache: Path) -> None:
        self.digest = digest
        self.tokens = manifest.training.tokens
        self.vocabulary = manifest.vocabulary
        self.end_of_text = manifest.end_of_text
        self.dtype = manifest.dtype
        self.held_out_documents = manifest.held_out.documents
        self._store, self._manifest, self._cache = store, manifest, cache
        self._training: _Tokens | None = None

    @classmethod
    def open(cls, store: Store, prepare_digest: str, cache: Path) -> "PreparedSource":
        """Open the source made by a prepare task. Its shards are checked when they are first read.

        Raises KeyMissing while the task has no record, Damaged if a file does not match the record.
        """
        record = read_record(store, prepare_digest)
        if record is None:
            raise KeyMissing(f"the prepare task {prepare_digest} has no record yet; it must be done first")
        artifact = record.artifacts["manifest"]
        return cls(store, prepare_digest, read_manifest(read_bytes(store, artifact), artifact.key), cache)

    def windows(self, sequence_length: int) -> int:
        """Return the number of windows of `sequence_length` targets."""
        return max(0, self.tokens - 1) // sequence_length

    def window(self, index: int, sequence_length: int) -> Ids:
        """Return the tokens of window `index`, (sequence_length + 1,). Windows overlap by one token. Raises Damaged, KeyMissing."""
        start = index * sequence_length
        return self._opened().slice(start, start + sequence_length + 1)

    def check(self, fetching: Fetching = NO_CALLBACKS) -> None:
        """Check and map all training shards now instead of at the first read. Raises Damaged, KeyMissing."""
        self._opened(fetching)

    def held_out(self, count: int, fetching: Fetching = NO_CALLBACKS) -> list[HeldOutDocument]:
        """Return the `count` held-out documents of lowest hash, or all if there are fewer. Raises Damaged, KeyMissing."""
        section, documents = self._manifest.held_out, list[HeldOutDocument]()
        tokens = _Tokens(self._store, section, self.dtype, self._cache, fetching)
        for path in _fetched(self._store, section.documents_files, self._cache, fetching):
            for row in mapped(path, DOCUMENT_ROW)[: count - len(documents)]:
                start = int(row["start"])
                ids = tokens.slice(start, start + int(row["tokens"]))
                documents.append(HeldOutDocument(row["hash"].tobytes().hex(), int(row["bytes"]), ids))
        return documents

    def _opened(self, fetching: Fetching = NO_CALLBACKS) -> _Tokens:
        if self._training is None:
            self._training = _Tokens(self._store, self._manifest.training, self.dtype, self._cache, fetching)
        return self._training


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step.

    `ids` (batch, T + 1) int64: inputs are all but the last token of a row, targets all but the first. `window_ids` (batch, 2) int64: index
    of the source in the trajectory's shares, and its window.
    """

    ids: Ids
    window_ids: Ids


class Mixture:
    """The batches of a trajectory."""

    def __init__(self, trajectory: Trajectory, sources: Sequence[PreparedSource]) -> None:
        self.sources = tuple(sources)
        self.vocabulary = sources[0].vocabulary
        self.end_of_text = sources[0].end_of_text
        self._trajectory = trajectory
        self._shares = [share for _, share in trajectory.shares]
        already_read = dict(trajectory.already_read)
        self._read_before = [already_read.get(source.digest, 0) for source in sources]
        self._windows = [source.windows(trajectory.sequence_length) for source in sources]
        self._block = lru_cache(_BLOCKS_KEPT)(self._block_of)

    def batch(self, step: int) -> Batch:
        """Return the batch of `step`, counted from 0 at the trajectory's start. Raises Damaged, KeyMissing."""
        first = step * self._trajectory.batch
        windows = [self.window(position) for position in range(first, first + self._trajectory.batch)]
        length = self._trajectory.sequence_length
        ids = np.stack([self.sources[source].window(window, length) for source, window in windows])
        return Batch(ids, np.array(windows, dtype=np.int64))

    def window(self, position: int) -> tuple[int, int]:
        """Return the source and window at `position` of the trajectory."""
        source, index = source_of(self._shares, position)
        epoch, offset = divmod(self._read_before[source] + index, self._windows[source])
        return source, int(self._block(source, epoch, offset // _BLOCK)[offset % _BLOCK])

    def _block_of(self, source: int, epoch: int, block: int) -> Ids:
        windows = self._windows[source]
        order = permutation(self._trajectory.data_seed, self.sources[source].digest, epoch, windows)
        return order(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, windows)))


def open_mixture(store: Store, trajectory: Trajectory, cache: Path, fetching: Fetching = NO_CALLBACKS) -> Mixture:
    """Open the mixture of a trajectory and check all of its shards.

    Raises TaskRefused if a source is shorter than one window or the sources have different tokenizers, KeyMissing while a source is not
    prepared, Damaged.
    """
    sources = [PreparedSource.open(store, digest, cache) for digest, _ in trajectory.shares]
    for source in sources:
        _check(source, sources[0], trajectory.sequence_length)
    for source in sources:
        source.check(fetching)
    return Mixture(trajectory, sources)


def _check(source: PreparedSource, first: PreparedSource, sequence_length: int) -> None:
    if not source.windows(sequence_length):
        raise TaskRefused(
            f"the source prepared as {source.digest} has {source.tokens:,} tokens, less than one window of {sequence_length:,} and the "
            "token after it; add data to the source or shorten the sequences"
        )
    if (source.vocabulary, source.end_of_text) != (first.vocabulary, first.end_of_text):
        raise TaskRefused(
            f"the sources prepared as {source.digest} and {first.digest} have different tokenizers; a mixture needs a single one"
        )
