"""Prepare tasks: train a tokenizer, or turn the files of a source into shuffled tokens and a held-out set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from orchestrator.contract.kinds.base import Document, Need, TaskIdentity
from orchestrator.contract.vocabulary import TaskKind

PREPARE_VERSION: Final = 1
"""Raise this when `prepare` writes other bytes for the same files."""

SHUFFLE_SEED: Final = 0
"""Seed of the order of documents inside a source: a constant, so that the seeds of a study choose windows only."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How files become documents. `column`: the key that holds the text. `max_file_bytes`: larger files of source code are skipped."""

    column: str
    max_file_bytes: int

    def identity(self) -> Document:
        return {"column": self.column, "max_file_bytes": self.max_file_bytes}


@dataclass(frozen=True, slots=True)
class TokenizerTask(TaskIdentity):
    """Train a byte-level BPE tokenizer.

    `sources`: (fingerprint, reader, coprime weight), sorted by fingerprint. `byte_count`: bytes read from all sources together.
    """

    kind: ClassVar = TaskKind.PREPARE
    output: ClassVar = "tokenizer"

    vocabulary: int
    byte_count: int
    held_out_one_in: int
    sources: tuple[tuple[str, Reader, int], ...]

    def identity(self) -> Document:
        return {
            "kind": "prepare",
            "output": "tokenizer",
            "version": PREPARE_VERSION,
            "vocabulary": self.vocabulary,
            "bytes": self.byte_count,
            "held_out_one_in": self.held_out_one_in,
            "shuffle_seed": SHUFFLE_SEED,
            "sources": [{"fingerprint": f, "reader": reader.identity(), "weight": weight} for f, reader, weight in self.sources],
        }

    @classmethod
    def read(cls, document: Document) -> Self:
        sources = tuple((entry["fingerprint"], Reader(**entry["reader"]), entry["weight"]) for entry in document["sources"])
        return cls(document["vocabulary"], document["bytes"], document["held_out_one_in"], sources)

    def needs(self) -> Iterator[Need]:
        yield from ()

    def fingerprints(self) -> tuple[str, ...]:
        return tuple(fingerprint for fingerprint, _, _ in self.sources)


@dataclass(frozen=True, slots=True)
class PrepareTask(TaskIdentity):
    """Turn the files of a source into shuffled tokens and a held-out set.

    `fingerprint`: digest of the sorted (SHA-256 of a file's content, reader, language) triples, the same whether declared or computed.
    `tokenizer`: digest of a TokenizerTask, or `file:` and the SHA-256 of a tokenizer.json. `limit`: tokens, or None for all.
    """

    kind: ClassVar = TaskKind.PREPARE
    output: ClassVar = "tokens"

    fingerprint: str
    reader: Reader
    tokenizer: str
    held_out_one_in: int
    limit: int | None

    def identity(self) -> Document:
        return {
            "kind": "prepare",
            "output": "tokens",
            "version": PREPARE_VERSION,
            "fingerprint": self.fingerprint,
            "reader": self.reader.identity(),
            "tokenizer": self.tokenizer,
            "held_out_one_in": self.held_out_one_in,
            "shuffle_seed": SHUFFLE_SEED,
            "limit": self.limit,
        }

    @classmethod
    def read(cls, document: Document) -> Self:
        reader = Reader(**document["reader"])
        return cls(document["fingerprint"], reader, document["tokenizer"], document["held_out_one_in"], document["limit"])

    def needs(self) -> Iterator[Need]:
        if not self.tokenizer.startswith("file:"):
            yield Need(self.tokenizer)

    def fingerprints(self) -> tuple[str, ...]:
        return (self.fingerprint, self.tokenizer)
