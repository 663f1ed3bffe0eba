"""The types of the fields of a study file, each with what people are told about it.

`orchestrator.spec.models` is made of them. Every type carries what is allowed, an example of what to write, and bounds for the CRD.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final, TypeAlias, TypeVar

from pydantic import Discriminator, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from orchestrator.spec.numbers import Quantity, read_bytes, read_count, read_decimal, read_percent, read_whole

_COUNT_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})([.][0-9]{1,12})?[kKMGBT]?$"
_BYTES_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})([.][0-9]{1,12})?([kMGT]|[KMGT]iB)?$"
_WHOLE_PATTERN: Final = r"^(0|[1-9][0-9]{0,18})$"
_DECIMAL_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})([.][0-9]{1,17})?(e[+-]?[0-9]{1,2})?$"
_PERCENT_PATTERN: Final = r"^(0|[1-9][0-9]{0,2})([.][0-9]{1,5})?%$"


def whole(what: str, example: str, low: int, high: int) -> Quantity:
    """The type of a whole number between `low` and `high`."""
    return Quantity(read_whole, f"{what}: a whole number from {low} to {high}", example, _WHOLE_PATTERN, low, high)


def number(what: str, example: str, low: int, high: int | None = None, *, above: bool = False) -> Quantity:
    """The type of a decimal number of at most 6 digits: an integer, or a string such as "12.5" or "1e-6"."""
    bounds = f"{'above' if above else 'at least'} {low}" if high is None else f"from {low} to {high}{', not 0' if above else ''}"
    allowed = f"{what}: an integer, or a decimal in quotes of at most 6 digits, {bounds}"
    top = None if high is None else Decimal(high)
    return Quantity(read_decimal, allowed, example, _DECIMAL_PATTERN, Decimal(low), top, above)


@dataclass(frozen=True)
class Text:
    """A field's type: text that a pattern must match from end to end."""

    allowed: str
    example: str
    pattern: str
    longest: int

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> str:
        """`given`, when it is such a text. Raises PydanticCustomError."""
        if not isinstance(given, str) or len(given) > self.longest or re.fullmatch(self.pattern, given) is None:
            raise PydanticCustomError("text", "{allowed}", {"allowed": self.allowed, "because": "", "write": self.example})
        return given


@dataclass(frozen=True)
class Choice:
    """A field's type: one of a few words."""

    words: tuple[str, ...]

    @property
    def example(self) -> str:
        return self.words[0]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> str:
        """`given`, when it is one of the words. Raises PydanticCustomError."""
        if not isinstance(given, str) or given not in self.words:
            raise PydanticCustomError("choice", "{allowed}", {"allowed": " or ".join(self.words), "choices": list(self.words)})
        return self.words[self.words.index(given)]


T = TypeVar("T")


def _one_or_by_size(given: object) -> str:
    return "<by size>" if isinstance(given, Mapping) else "<one>"


# RFC 1123 label: what Kubernetes takes as a name
LABEL_PATTERN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SIZE_PATTERN: Final = r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?"

_LABEL: Final = Text(
    "a name of lower-case letters, digits and '-', at most 63, a letter or digit at both ends", "to-code", LABEL_PATTERN, 63
)
_SIZE: Final = Text("the name of a size: letters, digits, '.' and '-', at most 32", "470M", SIZE_PATTERN, 32)

Label: TypeAlias = Annotated[str, _LABEL]
SizeName: TypeAlias = Annotated[str, _SIZE]
Address: TypeAlias = Annotated[
    str, Text("an address (s3://bucket/folder) or a path, without line breaks", "s3://studies/to-code", r"[^\x00-\x1f\x7f]+", 1024)
]
Words: TypeAlias = Annotated[str, Text("text of one line", "text", r"[^\x00-\x1f\x7f]+", 1024)]
HexDigest: TypeAlias = Annotated[str, Text("64 lower-case hex digits (a SHA-256)", "0" * 64, r"[0-9a-f]{64}", 64)]

TokenCount: TypeAlias = Annotated[int, Quantity(read_count, "a number of tokens from 1: 4096, 470M, 200B, 1.5T", "200B", _COUNT_PATTERN, 1)]
WarmupTokens: TypeAlias = Annotated[int, Quantity(read_count, "a number of tokens: 0, 470M, 2.8B", "470M", _COUNT_PATTERN, 0)]
ByteCount: TypeAlias = Annotated[int, Quantity(read_bytes, "a number of bytes from 1: 65536, 10G, 1MiB", "10G", _BYTES_PATTERN, 1)]
CodePercent: TypeAlias = Annotated[Decimal, number("a percentage of code", '"12.5"', 0, 100)]
Weight: TypeAlias = Annotated[Decimal, number("a weight in percent", "50", 0, 100)]
Decay: TypeAlias = Annotated[
    Decimal,
    Quantity(read_percent, "a part of the stage from 0% to 100%, not 0", "10%", _PERCENT_PATTERN, Decimal(0), Decimal(100), True, False),
]
Rate: TypeAlias = Annotated[Decimal, number("a learning rate", '"3e-4"', 0, 10)]
PeakRate: TypeAlias = Annotated[Decimal, number("a learning rate", '"3e-4"', 0, 10, above=True)]
Deviation: TypeAlias = Annotated[Decimal, number("a standard deviation", '"0.02"', 0, 10, above=True)]
BatchSequences: TypeAlias = Annotated[int, whole("sequences a step", "256", 1, 2**20)]

BySize: TypeAlias = Annotated[Annotated[T, Tag("<one>")] | Annotated[dict[SizeName, T], Tag("<by size>")], Discriminator(_one_or_by_size)]
