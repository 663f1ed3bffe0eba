"""Perform the prepare task that turns the files of a source into shuffled tokens and a held-out set.

Three passes: hash the files, tokenise their documents into pieces in reading order, merge the pieces in shuffled order. The second pass
takes most of the time; a restart reuses the pieces of earlier attempts, and a stop loses no work. `Sizes` bounds the memory.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from orchestrator.contract.record import Artifact
from orchestrator.contract.tasks import PrepareTask
from orchestrator.errors import TaskRefused
from orchestrator.store.artifacts import write_bytes
from trainer.context import Context, Outcome
from trainer.prepare.documents import START, Document, Item, Position, Source
from trainer.prepare.inputs import check_files, find_files, paths_of
from trainer.prepare.manifest import Manifest, Section, dtype_for
from trainer.prepare.meter import Meter
from trainer.prepare.pieces import Piece, PieceBuilder, Tokens, pieces_of_earlier_attempts, remove, runs_of
from trainer.prepare.readers import Skip
from trainer.prepare.shards import SectionWriter, deduplicated, merged
from trainer.prepare.sizes import Sizes
from trainer.prepare.tokenizer import Tokenizer, load_tokenizer, use_threads


def prepare_tokens(context: Context, task: PrepareTask, sizes: Sizes) -> Outcome:
    """Write tokens, held-out documents and the manifest of one source. Raises TaskRefused, Stopped, StoreError."""
    use_threads(context.placement.threads)
    tokenizer = load_tokenizer(context, task.tokenizer)
    meter = Meter(context)
    files = find_files(context, task.fingerprint)
    # each pass (hash, tokenise, merge) processes the bytes of the files once
    meter.total = 3 * sum(file.size for file in files)
    source = Source(check_files(context, task.fingerprint, files, meter), task.reader, task.held_out_one_in)
    pieces = _Tokenising(context, task, source, tokenizer, sizes, meter).pieces()
    _refuse_empty(context, task, pieces)
    manifest = _merge(context, pieces, tokenizer, sizes, meter)
    outcome = _outcome(context, manifest, len(files), pieces, tokenizer)
    context.lease.check()  # a later attempt may be merging these pieces
    remove(context.store, context.lease, _piece_cache(context))
    return outcome


class _Tokenising:
    """The second pass: tokenise documents in reading order into pieces."""

    def __init__(self, context: Context, task: PrepareTask, source: Source, tokenizer: Tokenizer, sizes: Sizes, meter: Meter) -> None:
        self._context, self._task, self._source = context, task, source
        self._tokenizer, self._sizes, self._meter = tokenizer, sizes, meter
        self._pieces = pieces_of_earlier_attempts(context.store, context.lease, _piece_cache(context))
        self._tokens_before = sum(piece.training_tokens for piece in self._pieces)
        self._builder = self._new_builder(self._pieces[-1].end if self._pieces else START)

    def pieces(self) -> list[Piece]:
        """Return all pieces of the source. Raises Stopped after saving the tokenised documents."""
        self._meter.start_phase()
        if not (self._pieces and self._pieces[-1].is_last):
            self._tokenise()
        self._meter.reach(self._source.size)
        return self._pieces

    def _tokenise(self) -> None:
        for batch in _batches(self._source.items(self._builder.start), self._batch_bytes):
            end = self._tokenise_batch(batch)
            if end is not None:
                self._close(end, is_last=True)
                return
            self._meter.reach(batch[-1].read)
            if self._builder.bytes >= self._sizes.piece_bytes or self._context.stopping():
                self._close(batch[-1].after, is_last=False)
                self._meter.check_stop()
        self._close(self._source.end, is_last=True)

    @property
    def _batch_bytes(self) -> int:
        return self._sizes.batch_bytes * max(1, self._context.placement.threads)

    def _tokenise_batch(self, batch: list[Item]) -> Position | None:
        """Tokenise a batch; return the position before the first document that would exceed the task's limit, else None."""
        ids = iter(self._tokenizer.ids([item.record.text for item in batch if isinstance(item.record, Document)]))
        for item in batch:
            if isinstance(item.record, Skip):
                self._builder.skipped[item.record.value] += 1
                continue
            tokens = next(ids)
            if not item.record.is_held_out and self._exceeds_limit(len(tokens) + 1):
                return Position(item.after.file, item.after.record - 1)
            self._builder.add(item.record, tokens)
        return None

    def _exceeds_limit(self, more: int) -> bool:
        return self._task.limit is not None and self._tokens_before + self._builder.training_tokens + more > self._task.limit

    def _close(self, end: Position, *, is_last: bool) -> None:
        piece = self._builder.write(self._context.store, self._context.lease, end, is_last)
        self._pieces.append(piece)
        self._tokens_before += piece.training_tokens
        self._context.lease.note_checkpoint(self._meter.done)
        self._builder = self._new_builder(end)

    def _new_builder(self, start: Position) -> PieceBuilder:
        return PieceBuilder(start, dtype_for(self._tokenizer.vocabulary), self._tokenizer.end_of_text)


def _refuse_empty(context: Context, task: PrepareTask, pieces: list[Piece]) -> None:
    if sum(piece.training_tokens for piece in pieces) > 1:
        return
    paths = ", ".join(paths_of(context, task.fingerprint))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(_skipped(pieces).items())) or "nothing was skipped"
    held_out = sum(piece.held_out for piece in pieces)
    limit = "" if task.limit is None else f"; its limit of {task.limit:,} tokens is shorter than its first document"
    raise TaskRefused(f"{paths}: the source is empty: it has no training document ({counts}, {held_out} held out{limit})")


def _skipped(pieces: list[Piece]) -> Counter[str]:
    counts: Counter[str] = Counter({skip.value: 0 for skip in Skip})
    for piece in pieces:
        counts.update(piece.skipped)
    return counts


def _merge(context: Context, pieces: list[Piece], tokenizer: Tokenizer, sizes: Sizes, meter: Meter) -> Manifest:
    """The third pass: merge the pieces. Raises Stopped; a restart repeats the merge from the same pieces."""
    dtype = dtype_for(tokenizer.vocabulary)
    runs = [runs_of(context.store, piece, dtype, _piece_cache(context)) for piece in pieces]
    bytes_a_token = (meter.total - meter.done) / max(1, sum(piece.ids.bytes // dtype.itemsize for piece in pieces))

    def section(name: str, documents: Iterable[tuple[np.void, Tokens]]) -> Section:
        with SectionWriter(context.store, context.lease, name, sizes.shard_bytes // dtype.itemsize, Path(folder)) as writer:
            for row, ids in documents:
                writer.add(row, ids)
                meter.advance(int(len(ids) * bytes_a_token))
                meter.check_stop()
            return writer.close()

    range_tokens = sizes.merge_bytes // dtype.itemsize
    context.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.cache) as folder:
        return Manifest(
            vocabulary=tokenizer.vocabulary,
            end_of_text=tokenizer.end_of_text,
            training=section("training", merged([run for run, _ in runs], range_tokens)),
            held_out=section("held-out", deduplicated(merged([run for _, run in runs], range_tokens))),
        )


def _outcome(context: Context, manifest: Manifest, files: int, pieces: list[Piece], tokenizer: Tokenizer) -> Outcome:
    written = [*manifest.training.artifacts, *manifest.held_out.artifacts]
    artifacts: dict[str, Artifact] = {artifact.key.rpartition("/")[2]: artifact for artifact in written}
    artifacts["manifest"] = write_bytes(context.store, context.lease.key("manifest.json"), manifest.to_bytes())
    artifacts["tokenizer"] = write_bytes(context.store, context.lease.key("tokenizer.json"), tokenizer.content)
    return Outcome(
        {
            "tokens": manifest.training.tokens,
            "documents": manifest.training.documents,
            "bytes": manifest.training.bytes,
            "held_out_documents": manifest.held_out.documents,
            "held_out_bytes": manifest.held_out.bytes,
            "files": files,
            "vocabulary": manifest.vocabulary,
            **_skipped(pieces),
        },
        artifacts,
    )


def _piece_cache(context: Context) -> Path:
    return context.cache / "pieces" / context.digest


def _batches(items: Iterable[Item], batch_bytes: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.record.size if isinstance(item.record, Document) else 1
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
