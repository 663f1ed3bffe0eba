"""The types of the fields of a study file, each with its error messages.

The models use them. Every type has a text for the allowed values, an example, and the pattern and bounds for the CRD.
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
    INTEGER_PATTERN,
    PERCENT_PATTERN,
    Quantity,
    read_bytes,
    read_count,
    read_decimal,
    read_integer,
    read_percent,
)


class SpecModel(BaseModel):
    """Base of the models: frozen, camelCase names in the file, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, defer_build=True)


# C1 controls, controls of the direction of text, and line separators. They are valid in names of files, but messages would show other text.
_DECEPTIVE: Final = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Text:
    """Type of a field: text that matches `pattern` completely. `suggest_cleaned`: suggest a cleaned version of invalid text."""

    allowed: str
    example: str
    pattern: str
    max_length: int
    suggest_cleaned: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> str:
        """Return `given` if it matches. Raises PydanticCustomError."""
        if not isinstance(given, str) or not self._fits(given):
            self._refuse(given)
        return given

    def _fits(self, text: str) -> bool:
        return len(text) <= self.max_length and re.fullmatch(self.pattern, text) is not None and not _DECEPTIVE.search(text)

    def _refuse(self, given: object) -> NoReturn:
        suggestion = f'"{given}"' if isinstance(given, int) and self._fits(str(given)) else ""
        if self.suggest_cleaned and isinstance(given, str):
            cleaned = re.sub("[^a-z0-9]+", "-", given.lower()).strip("-")
            suggestion = f'"{cleaned}"' if self._fits(cleaned) else ""
        deceptive = _DECEPTIVE.search(given) if isinstance(given, str) else None
        because = f"it contains {deceptive[0]!r}, which changes how a terminal shows the text around it" if deceptive else ""
        raise PydanticCustomError(
            "value", "{allowed}", {"allowed": self.allowed, "because": because, "example": self.example, "suggestion": suggestion}
        )


@dataclass(frozen=True)
class Choice:
    """Type of a field: one of a few words."""

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
class ShortForm:
    """Annotation of a model that has a short form, a single value. `only`: keys of the long form, all if empty."""

    types: tuple[Quantity, ...]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnderKey:
    """Annotation of a model that is nested under a key in the file: `{train: {...}}`."""

    key: str


def integer(example: str, low: int, high: int) -> Quantity:
    """Return the type of an integer between `low` and `high`."""
    return Quantity(read_integer, f"a whole number from {low} to {high}", example, INTEGER_PATTERN, low, high)


def number(example: str, low: int, high: str = "", *, above: bool = False) -> Quantity:
    """Return the type of a decimal number with at most 6 digits: an integer, or a string such as "12.5" or "1e-6"."""
    bounds = f"{'above' if above else 'from'} {low}" + (f" {'and up ' if above else ''}to {high}" if high else " on")
    allowed = f"a number {bounds if high or not above else f'above {low}'} (write a fraction in quotes, with at most 6 digits)"
    return Quantity(read_decimal, allowed, example, DECIMAL_PATTERN, Decimal(low), Decimal(high) if high else None, above)


# RFC 1123 label, which Kubernetes requires of names
LABEL_PATTERN: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN_PATTERN: Final = "[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"
SIZE_PATTERN: Final = "[A-Za-z0-9]([-.A-Za-z0-9]{0,30}[A-Za-z0-9])?"
LINE_PATTERN: Final = "[^\\x00-\\x1f\\x7f]+"

LABEL: Final = Text(
    "a name (lower-case letters, digits and '-', at most 63, a letter or digit at both ends)",
    "to-code",
    LABEL_PATTERN,
    63,
    suggest_cleaned=True,
)
SIZE: Final = Text("the name of a size (letters, digits, '.' and '-', at most 32)", "470M", SIZE_PATTERN, 32)
ADDRESS: Final = Text("an address or a path of one line and at most 1024 characters", "s3://bucket/folder", LINE_PATTERN, 1024)
LINE: Final = Text("text of one line and at most 1024 characters", "text", LINE_PATTERN, 1024)
IMAGE: Final = Text("the name of an image, without spaces", "registry.example.com/trainer:1", r"[^\x00-\x20\x7f]+", 512)
OBJECT_NAME: Final = Text(
    "the name of a Kubernetes object (lower-case letters, digits, '-' and '.')", "research", SUBDOMAIN_PATTERN, 253, suggest_cleaned=True
)
MEMORY: Final = Text("an amount of memory with a Kubernetes unit (512Mi, 64Gi)", "64Gi", "[1-9][0-9]{0,8}([.][0-9]{1,3})?([MGT]i?)", 16)
DIGEST: Final = Text("64 lower-case hex digits (a SHA-256)", "0123456789abcdef" * 4, "[0-9a-f]{64}", 64)

Label: TypeAlias = Annotated[str, LABEL]
SizeName: TypeAlias = Annotated[str, SIZE]
Address: TypeAlias = Annotated[str, ADDRESS]
Line: TypeAlias = Annotated[str, LINE]
Image: TypeAlias = Annotated[str, IMAGE]
ObjectName: TypeAlias = Annotated[str, OBJECT_NAME]
Memory: TypeAlias = Annotated[str, MEMORY]
HexDigest: TypeAlias = Annotated[str, DIGEST]

SEED: Final = integer("1", 0, 2**31 - 1)
"""Non-negative signed 32-bit integers, which every random generator accepts."""

TokenCount: TypeAlias = Annotated[int, Quantity(read_count, "a positive number of tokens (4096, 470M, 1.5T)", "200B", COUNT_PATTERN, 1)]
WarmupTokens: TypeAlias = Annotated[int, Quantity(read_count, "a number of tokens (0, 4096, 470M, 2.8B)", "470M", COUNT_PATTERN, 0)]
ByteCount: TypeAlias = Annotated[int, Quantity(read_bytes, "a positive number of bytes (65536, 1MiB, 10G)", "10G", BYTES_PATTERN, 1)]
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
Sequences: TypeAlias = Annotated[int, integer("256", 1, 2**20)]

T = TypeVar("T")


def _one_or_by_size(given: object) -> str:
    return "<by size>" if isinstance(given, Mapping) else "<one>"


BySize: TypeAlias = Annotated[Annotated[T, Tag("<one>")] | Annotated[dict[SizeName, T], Tag("<by size>")], Discriminator(_one_or_by_size)]
