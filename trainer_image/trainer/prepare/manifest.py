"""The manifest of a prepared source, and the layout of its files.

`shards` writes it, `trainer.data.sources` reads it. Training tokens and held-out documents are two sections with the same layout: shards
of equal size with little-endian token ids, and for each shard a file with one row per document that starts in it.
"""

from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from orchestrator.contract.record import Artifact
from orchestrator.store.documents import parse_model

DOCUMENT_ROW: Final = np.dtype([("start", "<u8"), ("tokens", "<u8"), ("bytes", "<u8"), ("hash", "u1", (32,))])
"""A document: index of its first token in the section, tokens (with end-of-text token), bytes and SHA-256 of its text."""

_SMALL_VOCABULARY: Final = 1 << 16


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(_Model):
    """One section. `tokens` includes end-of-text tokens, `bytes` is the size of the texts. All shards but the last hold `shard_tokens`."""

    tokens: int
    documents: int
    bytes: int
    shard_tokens: int
    shards: list[Artifact]
    documents_files: list[Artifact]

    @property
    def artifacts(self) -> list[Artifact]:
        return [*self.shards, *self.documents_files]


class Manifest(_Model):
    """`training`: shuffled documents, each followed by `end_of_text`. `held_out`: unique, sorted by hash, without `end_of_text`."""

    version: Literal[1] = 1
    vocabulary: int
    end_of_text: int
    training: Section
    held_out: Section

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        return dtype_for(self.vocabulary)

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def dtype_for(vocabulary: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """Return the type of token ids: two bytes if all ids fit, else four."""
    return np.dtype("<u2") if vocabulary < _SMALL_VOCABULARY else np.dtype("<u4")


def read_manifest(body: bytes, key: str) -> Manifest:
    """Parse the manifest in `body`. Raises Damaged, which names `key`."""
    return parse_model(Manifest, body, key, "a valid manifest of a prepared source")
