"""What a study reads: tokenizer, sources and what is held out of them."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from orchestrator.contract.vocabulary import Group
from orchestrator.spec.fields import Address, ByteCount, Choice, HexDigest, Label, Line, Part, TokenCount, Under, Weight, number, whole

LARGEST_SOURCES: Final = 64

# 256 bytes, and the end-of-text token
_VOCABULARY: Final = whole("50304", 257, 2**20)


class TrainTokenizer(Part):
    """A byte-level BPE trained on the study's own sources."""

    vocabulary: Annotated[int, _VOCABULARY] = Field(description="Number of entries, the end-of-text token included.")
    bytes: ByteCount = Field(description="How much text it is trained on, in all.")
    weights: dict[Label, Weight] = Field(
        min_length=1, max_length=LARGEST_SOURCES, description="Percent of those bytes by source; 100 in all."
    )


class TokenizerFile(Part):
    """An existing tokenizer: a `tokenizer.json`."""

    file: Address = Field(description="Path or address of a tokenizer.json; a path is relative to the study file.")
    vocabulary: Annotated[int, _VOCABULARY] | None = Field(None, description="Entries of the vocabulary; the file's unless given.")


def _which_tokenizer(given: object) -> str | None:
    if isinstance(given, TrainTokenizer) or (isinstance(given, Mapping) and "train" in given):
        return "train"
    return "<file>" if isinstance(given, (Mapping, TokenizerFile)) else None


def _inside_train(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    for key in given:
        if key != "train":
            raise PydanticCustomError("beside", "{key}", {"key": key, "beside": "train"})
    return given["train"]


TokenizerGiven: TypeAlias = Annotated[
    Annotated[TrainTokenizer, Under("train"), BeforeValidator(_inside_train), Tag("train")] | Annotated[TokenizerFile, Tag("<file>")],
    Discriminator(_which_tokenizer),
]


class Source(Part):
    """Files that are read as one stream of documents."""

    name: Label = Field(description="What mixtures call it; no part of any identity.")
    group: Annotated[Group, Choice(tuple(Group))] = Field(description="Which side of `codePercent` it is on.")
    path: Address = Field(description="A file, folder or pattern; a relative one starts at the study file's folder.")
    fingerprint: HexDigest | None = Field(None, description="Digest of the content, where `plan` cannot reach the files.")
    tokens: TokenCount | None = Field(None, description="How many tokens it has, until `prepare` has counted them.")
    max_repetition: Annotated[Decimal, number("4", 0, "1000", above=True)] = Field(
        Decimal(4), description="A plan that reads it more often is refused (Muennighoff et al. 2023 found 4 still useful)."
    )
    limit: TokenCount | None = Field(None, description="Only so many tokens of it are prepared.")
    column: Line = Field("text", description="Column of Parquet, or key of JSON lines, that holds the text.")
    max_file_bytes: ByteCount = Field(2**20, description="Source code: larger files are left out.")


class HeldOut(Part):
    """Documents held out of every source for evaluation."""

    one_in: Annotated[int, whole("200", 2, 10**6)] = Field(
        200, description="One document in so many is kept out, by a hash of its content."
    )
    documents: Annotated[int, whole("2000", 1, 10**7)] = Field(2000, description="At most so many of them are scored, by source.")


class Data(Part):
    """Sources, and how they become tokens."""

    tokenizer: TokenizerGiven = Field(description="One for all cells: `{train: {...}}` or `{file: tokenizer.json}`.")
    sources: tuple[Source, ...] = Field(min_length=1, max_length=LARGEST_SOURCES, description="What mixtures are made of.")
    held_out: HeldOut = Field(default_factory=HeldOut, description="What is kept out of every source to be scored.")
