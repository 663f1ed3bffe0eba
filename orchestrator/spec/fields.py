"""The types of the fields of a study file, each with its error messages.

The models are made of them. Every type carries what is allowed, an example of what to write, and pattern and bounds for the CRD.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, GetCoreSchemaHandler, Tag
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from orchestrator.spec.numbers import (
    BYTES_PATTERN,
    COUNT_PATTERN,
    DECIMAL_PATTERN,
    PERCENT_PATTERN,
    WHOLE_PATTERN,
    Quantity,
    read_bytes,
    read_count,
    read_decimal,
    read_percent,
    read_whole,
)


class Part(BaseModel):
    """Base of the models: frozen, camelCase names in the file, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, defer_build=True)


@dataclass(frozen=True)
class Text:
    """A field's type: text that matches `pattern` completely. `tidy`: whether a near miss can be corrected by cleaning it."""

    allowed: str
    example: str
    pattern: str
    longest: int
    tidy: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> str:
        """Return `given` if it matches. Raises PydanticCustomError."""
        if not isinstance(given, str) or not self._fits(given):
            self._refuse(given)
        return given

    def _fits(self, text: str) -> bool:
        return len(text) <= self.longest and re.fullmatch(self.pattern, text) is not None

    def _refuse(self, given: object) -> NoReturn:
        meant = f'"{given}"' if isinstance(given, int) and self._fits(str(given)) else ""
        if self.tidy and isinstance(given, str):
            cleaned = re.sub("[^a-z0-9]+", "-", given.lower()).strip("-")
            meant = f'"{cleaned}"' if self._fits(cleaned) else ""
        raise PydanticCustomError("value", "{allowed}", {"allowed": self.allowed, "because": "", "example": self.example, "meant": meant})


@dataclass(frozen=True)
class Choice:
    """A field's type: one of a few words."""

    words: tuple[str, ...]

    @property
    def example(self) -> str:
        return str(self.words[0])

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> str:
        """Return `given` if it is one of the words. Raises PydanticCustomError."""
        if not isinstance(given, str) or given not in self.words:
            raise PydanticCustomError("choice", "{words}", {"words": [str(word) for word in self.words]})
        return self.words[self.words.index(given)]


@dataclass(frozen=True)
class Short:
    """Annotation of a model that may also be written as a single value. `only`: keys of its long form."""

    types: tuple[Quantity, ...]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Under:
    """Annotation of a model that is written under a key of its own: `{train: {...}}`."""

    key: str


def whole(example: str, low: int, high: int) -> Quantity:
    """Return the type of an integer between `low` and `high`."""
    return Quantity(read_whole, f"a whole number from {low} to {high}", example, WHOLE_PATTERN, low, high)


def number(example: str, low: int, high: str = "", *, above: bool = False) -> Quantity:
    """Return the type of a decimal number with at most 6 digits: an integer, or a string such as "12.5" or "1e-6"."""
    bounds = f"{'above' if above else 'from'} {low}" + (f" {'up ' if above else ''}to {high}" if high else " on")
    allowed = f"a number {bounds if high or not above else f'above {low}'} (write a fraction in quotes, with at most 6 digits)"
    return Quantity(read_decimal, allowed, example, DECIMAL_PATTERN, Decimal(low), Decimal(high) if high else None, above)


# RFC 1123 label: what Kubernetes takes as a name
LABEL_PATTERN: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN_PATTERN: Final = "[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"
SIZE_PATTERN: Final = "[A-Za-z0-9]([-.A-Za-z0-9]{0,30}[A-Za-z0-9])?"
LINE_PATTERN: Final = "[^\\x00-\\x1f\\x7f]+"

LABEL: Final = Text(
    "a name (lower-case letters, digits and '-', at most 63, a letter or digit at both ends)", "to-code", LABEL_PATTERN, 63, tidy=True
)
SIZE: Final = Text("the name of a size (letters, digits, '.' and '-', at most 32)", "470M", SIZE_PATTERN, 32)
ADDRESS: Final = Text("an address or a path, of one line and at most 1024 characters", "s3://bucket/folder", LINE_PATTERN, 1024)
LINE: Final = Text("text of one line and at most 1024 characters", "text", LINE_PATTERN, 1024)
IMAGE: Final = Text("the name of an image, without spaces", "registry.example.com/trainer:1", r"[^\x00-\x20\x7f]+", 512)
OBJECT_NAME: Final = Text(
    "the name of a Kubernetes object (lower-case letters, digits, '-' and '.')", "research", SUBDOMAIN_PATTERN, 253, tidy=True
)
MEMORY: Final = Text(
    "an amount of memory with its unit, as Kubernetes writes it (512Mi, 64Gi)", "64Gi", "[1-9][0-9]{0,8}([.][0-9]{1,3})?([MGT]i?)", 16
)
DIGEST: Final = Text("64 lower-case hex digits (a SHA-256)", "0123456789abcdef" * 4, "[0-9a-f]{64}", 64)

Label: TypeAlias = Annotated[str, LABEL]
SizeName: TypeAlias = Annotated[str, SIZE]
Address: TypeAlias = Annotated[str, ADDRESS]
Line: TypeAlias = Annotated[str, LINE]
Image: TypeAlias = Annotated[str, IMAGE]
ObjectName: TypeAlias = Annotated[str, OBJECT_NAME]
Memory: TypeAlias = Annotated[str, MEMORY]
HexDigest: TypeAlias = Annotated[str, DIGEST]

SEED: Final = whole("1", 0, 2**31 - 1)
"""A seed fits a signed 32-bit integer, which every generator takes."""

TokenCount: TypeAlias = Annotated[int, Quantity(read_count, "a number of tokens from 1 on (4096, 470M, 1.5T)", "200B", COUNT_PATTERN, 1)]
WarmupTokens: TypeAlias = Annotated[int, Quantity(read_count, "a number of tokens (0, 4096, 470M, 2.8B)", "470M", COUNT_PATTERN, 0)]
ByteCount: TypeAlias = Annotated[int, Quantity(read_bytes, "a number of bytes from 1 on (65536, 1MiB, 10G)", "10G", BYTES_PATTERN, 1)]
CodePercent: TypeAlias = Annotated[Decimal, number("25", 0, "100")]
Weight: TypeAlias = Annotated[Decimal, number("50", 0, "100")]
DECAY: Final = Quantity(
    read_percent,
    "a percentage of the stage above 0% and below 100%",
    "10%",
    PERCENT_PATTERN,
    Decimal(0),
    Decimal("99.9999"),
    True,
    False,
)
Decay: TypeAlias = Annotated[Decimal, DECAY]
Rate: TypeAlias = Annotated[Decimal, number('"1e-6"', 0, "10")]
PeakRate: TypeAlias = Annotated[Decimal, number('"3e-4"', 0, "10", above=True)]
Deviation: TypeAlias = Annotated[Decimal, number('"0.02"', 0, "10", above=True)]
Sequences: TypeAlias = Annotated[int, whole("256", 1, 2**20)]

T = TypeVar("T")


def _one_or_by_size(given: object) -> str:
    return "<by size>" if isinstance(given, Mapping) else "<one>"


BySize: TypeAlias = Annotated[Annotated[T, Tag("<one>")] | Annotated[dict[SizeName, T], Tag("<by size>")], Discriminator(_one_or_by_size)]
