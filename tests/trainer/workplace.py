"""A store, a folder of sources and a byte tokenizer for tests of `prepare`, and access to the results."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from trainer import prepare
from trainer.context import Context, Outcome
from trainer.data.sources import PreparedSource
from trainer.prepare import Sizes
from trainer.prepare.tokenizer import END_OF_TEXT

from orchestrator.contract.events import Placement
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import PrepareTask, Reader, Task
from orchestrator.store import Store
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.records import create_task, publish_record
from orchestrator.study.sources import fingerprint

READER = Reader("text", 2000)
ONE_IN = 4
TINY = Sizes(batch_bytes=200, piece_bytes=1000, merge_bytes=500, shard_bytes=400)
"""Sizes at which a few kilobytes give many batches, pieces, ranges and shards."""


@dataclass
class Workplace:
    """A store, a folder of sources, and a tokenizer with one token per byte."""

    store: Store
    folder: Path
    tokenizer: str = ""
    inputs: dict[str, list[str]] = field(default_factory=dict)
    progress: list[int] = field(default_factory=list)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def source(self, path: Path) -> str:
        """Return the fingerprint of the files at `path`, and add their path to the placement."""
        found = fingerprint(str(path), self.folder, self.folder / "hashes").fingerprint
        self.inputs[found] = [str(path)]
        return found

    def task(self, path: Path, **changes: Any) -> PrepareTask:
        return replace(PrepareTask(self.source(path), READER, self.tokenizer, ONE_IN, None), **changes)

    def attempt(self, task: Task, sizes: Sizes = TINY, stop: Callable[[], bool] = lambda: False, threads: int = 1) -> Outcome:
        digest = create_task(self.store, task)
        lease = acquire(self.store, f"tasks/{digest}", digest, Holder())
        placement = Placement(inputs=self.inputs, threads=threads)
        context = Context(self.store, digest, task, lease, placement, self.folder / "cache", self._on_progress, stop)
        try:
            return prepare.run(context, sizes)
        finally:
            lease.end("ended", 0)

    def done(self, task: Task, sizes: Sizes = TINY, **how: Any) -> tuple[str, Outcome]:
        outcome = self.attempt(task, sizes, **how)
        digest = create_task(self.store, task)
        record = Record(
            digest=digest, identity=task.identity(), results=outcome.results, artifacts=outcome.artifacts, attempts=[], nonce="1"
        )
        publish_record(self.store, record)
        return digest, outcome

    def prepared(self, path: Path, sizes: Sizes = TINY, **changes: Any) -> "Prepared":
        digest, outcome = self.done(self.task(path, **changes), sizes)
        return Prepared(PreparedSource.open(self.store, digest, self.folder / "cache"), outcome)

    def _on_progress(self, done: int, total: int, unit: str, loss: float | None) -> None:
        assert (unit, loss) == ("bytes", None)
        assert 0 <= done <= total
        self.progress.append(done)


@dataclass
class Prepared:
    source: PreparedSource
    outcome: Outcome

    @property
    def results(self) -> dict[str, float | int | str]:
        return self.outcome.results

    @property
    def ids(self) -> list[int]:
        return [int(token) for token in self.source.window(0, self.source.tokens - 1)]

    @property
    def texts(self) -> list[str]:
        """Training documents in shuffled order."""
        texts, text = list[str](), list[int]()
        for token in self.ids:
            if token == self.source.end_of_text:
                texts.append(self._decoded(text))
                text = []
            else:
                text.append(token)
        assert not text
        return texts

    @property
    def held_out(self) -> list[str]:
        return [self._decoded(document.ids.tolist()) for document in self.source.held_out(10**6)]

    def _decoded(self, ids: list[int]) -> str:
        return bytes(ids).decode()


def byte_tokenizer(end_of_text: str = END_OF_TEXT) -> bytes:
    """Return a tokenizer.json in which the id of a byte is its value and the id of the end-of-text token is 256."""
    alphabet = {letter: number for number, letter in _bytes_to_letters().items()}
    library = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(end_of_text, special=True)])
    return str(library.to_str()).encode()


def _bytes_to_letters() -> dict[int, str]:
    """Return GPT-2's letters of bytes: the character itself for printable bytes, letters from 256 on for the others."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + number) for number, byte in enumerate(others)}


def new_workplace(store: Store, folder: Path) -> Workplace:
    workplace = Workplace(store, folder / "corpora")
    content = byte_tokenizer()
    path = workplace.write("tokenizer.json", content)
    workplace.tokenizer = f"file:{hashlib.sha256(content).hexdigest()}"
    workplace.inputs[workplace.tokenizer] = [str(path)]
    return workplace


def is_held_out(text: str, one_in: int = ONE_IN) -> bool:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % one_in == 0


def synthetic_documents(count: int, what: str = "document") -> list[str]:
    return [f"{what} {number} " + f"wörd{number} " * (number % 17) for number in range(count)]


def training_texts(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if not is_held_out(text)]


def held_out_of(texts: Iterable[str]) -> set[str]:
    return {text for text in texts if is_held_out(text)}


def lines_of(texts: Iterable[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()
