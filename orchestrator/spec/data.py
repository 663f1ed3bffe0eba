"""Data of a study: tokenizer, sources and held-out documents."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from orchestrator.contract.vocabulary import Group
from orchestrator.spec.fields import (
    Address,
    ByteCount,
    Choice,
    HexDigest,
    Label,
    Line,
    SpecModel,
    TokenCount,
    UnderKey,
    Weight,
    integer,
    number,
)

MAX_SOURCES: Final = 64

# 256 bytes, and the end-of-text token
_VOCABULARY: Final = integer("50304", 257, 2**20)


class TrainTokenizer(SpecModel):
    """A byte-level BPE trained on the study's own sources."""

    vocabulary: Annotated[int, _VOCABULARY] = Field(description="Number of entries, including the end-of-text token.")
    bytes: ByteCount = Field(description="Total bytes of training text.")
    weights: dict[Label, Weight] = Field(
        min_length=1, max_length=MAX_SOURCES, description="Percentage of those bytes by source; they add up to 100."
    )


class TokenizerFile(SpecModel):
    """An existing tokenizer: a `tokenizer.json`."""

    file: Address = Field(description="Path or address of a tokenizer.json; a path is relative to the study file.")
    vocabulary: Annotated[int, _VOCABULARY] | None = Field(None, description="Number of entries. Default: read from the file.")


def _which_tokenizer(given: object) -> str | None:
    if isinstance(given, TrainTokenizer) or (isinstance(given, Mapping) and "train" in given):
        return "train"
    return "<file>" if isinstance(given, (Mapping, TokenizerFile)) else None


def _inside_train(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    for key in given:
        if key != "train":
            raise PydanticCustomError("unexpected_key", "{key}", {"key": key, "allowed_key": "train"})
    return given["train"]


TokenizerGiven: TypeAlias = Annotated[
    Annotated[TrainTokenizer, UnderKey("train"), BeforeValidator(_inside_train), Tag("train")] | Annotated[TokenizerFile, Tag("<file>")],
    Discriminator(_which_tokenizer),
]


class Source(SpecModel):
    """Files that are read as one stream of documents."""

    name: Label = Field(description="Name for mixtures; not part of any task's identity.")
    group: Annotated[Group, Choice(tuple(Group))] = Field(
        description="Group of the source: text or code; `codePercent` divides the tokens between the two."
    )
    path: Address = Field(description="File, folder or pattern; a relative path starts at the study file's folder.")
    fingerprint: HexDigest | None = Field(None, description="SHA-256 of the content, needed if `plan` cannot reach the files.")
    tokens: TokenCount | None = Field(None, description="Estimated number of tokens, used until `prepare` has counted them.")
    max_repetition: Annotated[Decimal, number("4", 0, "1000", above=True)] = Field(
        Decimal(4),
        description="Maximum number of epochs; a plan that exceeds it is refused (Muennighoff et al. 2023: up to 4 epochs are useful).",
    )
    limit: TokenCount | None = Field(None, description="Maximum number of tokens to prepare.")
    column: Line = Field("text", description="Parquet column or JSON Lines key of the text.")
    max_file_bytes: ByteCount = Field(2**20, description="Source code only: larger files are skipped.")


class HeldOut(SpecModel):
    """Documents held out of every source for evaluation."""

    one_in: Annotated[int, integer("200", 2, 10**6)] = Field(
        200, description="One document in this many is held out, selected by a hash of its content."
    )
    documents: Annotated[int, integer("2000", 1, 10**7)] = Field(
        2000, description="Maximum number of held-out documents to score per source."
    )


class Data(SpecModel):
    """Sources, tokenizer and held-out documents."""

    tokenizer: TokenizerGiven = Field(description="Tokenizer of all cells: `{train: {...}}` or `{file: tokenizer.json}`.")
    sources: tuple[Source, ...] = Field(min_length=1, max_length=MAX_SOURCES, description="Sources that mixtures can use.")
    held_out: HeldOut = Field(default_factory=HeldOut, description="Documents held out of every source for evaluation.")
