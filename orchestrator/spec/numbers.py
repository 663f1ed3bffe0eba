"""Read the numbers of a study file: `470M`, `200B`, `20x`, `10%`, `"12.5"`, `1MiB`.

The models use `Quantity` as the type of their fields; `orchestrator.crd` takes pattern and bounds from it. A number in the file is an
integer or a string; nothing here makes a float.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NoReturn, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from orchestrator.contract.identity import SIGNIFICANT_DIGITS

Exact: TypeAlias = int | Decimal

# JSON readers keep integers exactly up to here; a larger one is a string in the object
LARGEST_PLAIN: Final = 2**53

LARGEST_COUNT: Final = 10**18

COUNT_UNITS: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
BYTE_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# Patterns as the CRD shows them; RE2 and Python read them alike
_INTEGER: Final = "(0|[1-9][0-9]{0,17})"
COUNT_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,12}})?[kKMGBT]?$"
BYTES_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,12}})?([kMGT]|[KMGT]iB)?$"
WHOLE_PATTERN: Final = rf"^{_INTEGER}$"
DECIMAL_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,17}})?(e[+-]?[0-9]{{1,2}})?$"
PERCENT_PATTERN: Final = r"^(0|[1-9][0-9]{0,2})([.][0-9]{1,6})?%$"
MULTIPLE_PATTERN: Final = r"^(0|[1-9][0-9]{0,6})([.][0-9]{1,6})?x$"

_UNIT: Final = re.compile("[A-Za-z]*$")


@dataclass(frozen=True)
class Quantity:
    """A field's type: how text becomes a number, the allowed values in messages, and the CRD's pattern.

    `low` and `high` are inclusive unless `above`, which excludes `low`. `plain`: an unquoted integer is allowed too. `example` is as
    written in a file.
    """

    read: Callable[[str], Exact]
    allowed: str
    example: str
    pattern: str
    low: Exact | None = None
    high: Exact | None = None
    above: bool = False
    plain: bool = True

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> Exact:
        """Return the number. Raises PydanticCustomError with the allowed values and a correction in its context."""
        if isinstance(given, Decimal):
            return given if self._is_within(given) else self._refuse(given)
        if isinstance(given, bool) or not isinstance(given, (str, int)) or (isinstance(given, int) and not self.plain):
            self._refuse(given)
        if isinstance(given, int) and abs(given) > LARGEST_PLAIN:
            self._refuse(given, "JSON readers round integers past 2^53")
        try:
            number = self.read(given if isinstance(given, str) else str(given))
        except ValueError as problem:
            self._refuse(given, str(problem))
        return number if self._is_within(number) else self._refuse(given)

    def _is_within(self, number: Exact) -> bool:
        if self.low is not None and (number < self.low or (self.above and number == self.low)):
            return False
        return self.high is None or number <= self.high

    def _refuse(self, given: object, because: str = "") -> NoReturn:
        context = {"allowed": self.allowed, "because": because, "example": self.example, "meant": self._meant(given)}
        raise PydanticCustomError("value", "{allowed}", context)

    def _meant(self, given: object) -> str:
        """Return a likely correction of `given`, "" if there is none."""
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            return ""
        for text in _spellings(str(given)):
            try:
                if text != given and self._is_within(self.read(text)):
                    return text if text.isdigit() and self.plain and len(text) < 16 else f'"{text}"'
            except ValueError:
                continue
        return ""


def _spellings(text: str) -> Iterator[str]:
    bare = re.sub("[ _,]", "", text[:40])
    yield bare
    unit = _UNIT.search(bare)
    assert unit is not None
    figure = bare[: unit.start()]
    for other in ("k", "M", "B", "T", "KiB", "MiB", "GiB", "x"):
        if other.lower() == unit[0].lower():
            yield figure + other
    if bare[-1:] in ("b", "B"):
        yield bare[:-1]
    yield bare.lower()
    yield "0" + bare
    yield bare.lstrip("0")
    yield bare + "%"
    yield bare.removesuffix("%")
    yield bare.removesuffix(".0")


def read_count(text: str) -> int:
    """A whole number: `4096`, `470M`, `2.8B`, `1.5T`. Raises ValueError."""
    return _scaled(text, COUNT_PATTERN, COUNT_UNITS)


def read_bytes(text: str) -> int:
    """A number of bytes: `10G` (powers of ten) or `1MiB` (powers of two). Raises ValueError."""
    return _scaled(text, BYTES_PATTERN, BYTE_UNITS)


def _scaled(text: str, pattern: str, units: dict[str, int]) -> int:
    _expect(text, pattern)
    unit = _UNIT.search(text)
    assert unit is not None
    number = Decimal(text[: unit.start()]) * units[unit[0]]
    if number != int(number):
        raise ValueError("it is not whole")
    if number > LARGEST_COUNT:
        raise ValueError("it is past 1e18")
    return int(number)


def read_whole(text: str) -> int:
    """A whole number without a unit. Raises ValueError."""
    _expect(text, WHOLE_PATTERN)
    return int(text)


def read_decimal(text: str) -> Decimal:
    """A decimal number of at most 6 significant digits, as the identity of a task can hold it. Raises ValueError."""
    _expect(text, DECIMAL_PATTERN)
    number = Decimal(text)
    if len(number.normalize().as_tuple().digits) > SIGNIFICANT_DIGITS:
        raise ValueError(f"it has more than {SIGNIFICANT_DIGITS} significant digits")
    return number


def read_percent(text: str) -> Decimal:
    """`10%` -> Decimal(10). Raises ValueError."""
    _expect(text, PERCENT_PATTERN)
    return read_decimal(text.removesuffix("%"))


def read_multiple(text: str) -> Decimal:
    """`20x` -> Decimal(20). Raises ValueError."""
    _expect(text, MULTIPLE_PATTERN)
    return read_decimal(text.removesuffix("x"))


def _expect(text: str, pattern: str) -> None:
    if re.fullmatch(pattern, text) is None:
        raise ValueError


def written(number: Decimal) -> str:
    """Return a decimal in plain notation: `12.5`, `100`, `0.00001`."""
    return f"{number.normalize():f}"
