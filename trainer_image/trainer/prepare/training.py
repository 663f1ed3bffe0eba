"""Train the tokenizer of a study: a byte-level BPE on a sample of its sources.

`prepare.run` calls `train_tokenizer`. The sample contains the first documents in shuffled order, a number of bytes of each source
proportional to its weight, and no held-out documents.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from orchestrator.contract.tasks import TokenizerTask
from orchestrator.errors import TaskRefused
from orchestrator.store.artifacts import write_bytes
from trainer.context import Context, Outcome
from trainer.prepare.documents import START, Document, Position, Source
from trainer.prepare.inputs import check_files, find_files
from trainer.prepare.meter import Meter
from trainer.prepare.readers import Skip
from trainer.prepare.tokenizer import END_OF_TEXT, use_threads

# A pair of tokens that occurs only once in the sample is noise.
_MIN_FREQUENCY: Final = 2
# Bytes read per byte of the sample, so that a sample of 10 GB does not require reading a corpus of terabytes. Files are read in the order
# of their hashes, which is random.
_MAX_BYTES_READ_PER_BYTE: Final = 16
_BYTES: Final = 256


def train_tokenizer(context: Context, task: TokenizerTask) -> Outcome:
    """Train a byte-level BPE on the task's sample. Raises TaskRefused if the sample cannot fill the vocabulary."""
    if task.vocabulary <= _BYTES + 1:
        raise TaskRefused(
            f"a vocabulary of {task.vocabulary} is too small: {_BYTES} byte tokens and {END_OF_TEXT} are required before the first merge"
        )
    use_threads(context.placement.threads)
    sampling = _Sampling(context, task)
    library = _new_library()
    library.train_from_iterator(sampling.texts(), _trainer(task.vocabulary))
    vocabulary = library.get_vocab_size(with_added_tokens=True)
    if vocabulary != task.vocabulary:
        raise TaskRefused(
            f"{sampling.bytes:,} bytes of text only fill a vocabulary of {vocabulary:,}, but {task.vocabulary:,} were requested; "
            "increase `bytes`, add sources or reduce `vocabulary`"
        )
    artifact = write_bytes(context.store, context.lease.key("tokenizer.json"), library.to_str().encode())
    results = {"vocabulary": vocabulary, "bytes": sampling.bytes, "documents": sampling.documents, **sampling.skipped}
    return Outcome(results, {"tokenizer": artifact})


def _new_library() -> Any:  # noqa: ANN401 - tokenizers is not typed
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def _trainer(vocabulary: int) -> Any:  # noqa: ANN401 - tokenizers is not typed
    from tokenizers import pre_tokenizers, trainers

    return trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=_MIN_FREQUENCY, special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip


class _Sampling:
    """Draws the documents that a tokenizer is trained on, and counts them."""

    def __init__(self, context: Context, task: TokenizerTask) -> None:
        self.bytes, self.documents = 0, 0
        self.skipped: Counter[str] = Counter({skip.value: 0 for skip in Skip})
        self._meter = Meter(context)
        self._task = task
        found = [find_files(context, fingerprint) for fingerprint, _, _ in task.sources]
        # files are hashed once and read twice: to choose the documents, and to train on them
        self._meter.total = 3 * sum(file.size for files in found for file in files)
        self._sources = [
            Source(check_files(context, fingerprint, files, self._meter), reader, task.held_out_one_in)
            for (fingerprint, reader, _), files in zip(task.sources, found, strict=True)
        ]
        self._names = [", ".join(context.placement.inputs[fingerprint]) for fingerprint, _, _ in task.sources]

    def texts(self) -> Iterator[str]:
        weights = [weight for _, _, weight in self._task.sources]
        for source, name, weight in zip(self._sources, self._names, weights, strict=True):
            before = self.documents
            yield from self._sample_of(source, max(1, self._task.byte_count * weight // sum(weights)))
            if self.documents == before:
                raise TaskRefused(f"{name}: has no document to train a tokenizer on ({dict(self.skipped) or 'all are held out'})")

    def _sample_of(self, source: Source, budget: int) -> Iterator[str]:
        highest, end = self._selection(source, budget)
        for document, _ in self._documents(source, end, Counter()):
            if document.key <= highest:
                self.bytes += document.size
                self.documents += 1
                yield document.text

    def _selection(self, source: Source, budget: int) -> tuple[int, Position]:
        """Return the highest key of the first documents in shuffled order that fill `budget` bytes, and the end of the range to read."""
        heap: list[tuple[int, int]] = []
        kept = seen = 0
        for document, after in self._documents(source, source.end, self.skipped):
            heapq.heappush(heap, (-document.key, document.size))
            kept += document.size
            seen += document.size
            while kept - heap[0][1] >= budget:
                kept -= heapq.heappop(heap)[1]
            if seen >= _MAX_BYTES_READ_PER_BYTE * budget:
                return -heap[0][0], after
        return (-heap[0][0], source.end) if heap else (-1, START)

    def _documents(self, source: Source, end: Position, skipped: Counter[str]) -> Iterator[tuple[Document, Position]]:
        """Yield the documents that are not held out, up to `end`."""
        self._meter.start_phase()
        for item in source.items():
            if item.after > end:
                break
            self._meter.reach(item.read)
            self._meter.check_stop()
            if isinstance(item.record, Skip):
                skipped[item.record.value] += 1
            elif not item.record.is_held_out:
                yield item.record, item.after
        self._meter.reach(source.size)
