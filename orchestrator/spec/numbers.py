"""Read the numbers of a study file: `470M`, `200B`, `20x`, `10%`, `"12.5"`, `1MiB`.

The models use `Quantity` as the type of their fields; `orchestrator.crd` reads its pattern and bounds. A number in the file is an integer
or a string, and is never converted to a float.
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

# The largest integer that every JSON reader represents exactly; a larger one is a string in the object
MAX_SAFE_INTEGER: Final = 2**53

MAX_COUNT: Final = 10**18

COUNT_UNITS: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
BYTE_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# Patterns of the CRD; RE2 (Kubernetes) and Python interpret them identically
_INTEGER: Final = "(0|[1-9][0-9]{0,17})"
COUNT_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,12}})?[kKMGBT]?$"
BYTES_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,12}})?([kMGT]|[KMGT]iB)?$"
INTEGER_PATTERN: Final = rf"^{_INTEGER}$"
DECIMAL_PATTERN: Final = rf"^{_INTEGER}([.][0-9]{{1,17}})?(e[+-]?[0-9]{{1,2}})?$"
PERCENT_PATTERN: Final = r"^(0|[1-9][0-9]{0,2})([.][0-9]{1,6})?%$"
MULTIPLE_PATTERN: Final = r"^(0|[1-9][0-9]{0,6})([.][0-9]{1,6})?x$"

_UNIT: Final = re.compile("[A-Za-z]*$")


@dataclass(frozen=True)
class Quantity:
    """Type of a numeric field: its parser, the allowed values in messages, and the CRD's pattern.

    `low` and `high` are inclusive; `above` excludes `low`. `allow_integer`: an unquoted integer is allowed too. `example`: as written
    in a file.
    """

    read: Callable[[str], Exact]
    allowed: str
    example: str
    pattern: str
    low: Exact | None = None
    high: Exact | None = None
    above: bool = False
    allow_integer: bool = True

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> Exact:
        """Return the number. Raises PydanticCustomError with the allowed values and a correction in its context."""
        if isinstance(given, Decimal):
            return given if self._is_within(given) else self._refuse(given)
        if isinstance(given, bool) or not isinstance(given, (str, int)) or (isinstance(given, int) and not self.allow_integer):
            self._refuse(given)
        if isinstance(given, int) and abs(given) > MAX_SAFE_INTEGER:
            self._refuse(given, "JSON readers round integers above 2^53")
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
        context = {"allowed": self.allowed, "because": because, "example": self.example, "suggestion": self._suggestion(given)}
        raise PydanticCustomError("value", "{allowed}", context)

    def _suggestion(self, given: object) -> str:
        """Return a likely correction of `given`, "" if there is none."""
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            return ""
        for text in _spellings(str(given)):
            try:
                if text != given and self._is_within(self.read(text)):
                    return text if text.isdigit() and self.allow_integer and len(text) < 16 else f'"{text}"'
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
    """Return a whole number from `4096`, `470M`, `2.8B` or `1.5T`. Raises ValueError."""
    return _scaled(text, COUNT_PATTERN, COUNT_UNITS)


def read_bytes(text: str) -> int:
    """Return a number of bytes from `10G` (powers of ten) or `1MiB` (powers of two). Raises ValueError."""
    return _scaled(text, BYTES_PATTERN, BYTE_UNITS)


def _scaled(text: str, pattern: str, units: dict[str, int]) -> int:
    _expect(text, pattern)
    unit = _UNIT.search(text)
    assert unit is not None
    number = Decimal(text[: unit.start()]) * units[unit[0]]
    if number != int(number):
        raise ValueError("it is not a whole number")
    if number > MAX_COUNT:
        raise ValueError("it is above 1e18")
    return int(number)


def read_integer(text: str) -> int:
    """Return a whole number from text without a unit. Raises ValueError."""
    _expect(text, INTEGER_PATTERN)
    return int(text)


def read_decimal(text: str) -> Decimal:
    """Return a decimal of at most 6 significant digits, the limit in a task's identity. Raises ValueError."""
    _expect(text, DECIMAL_PATTERN)
    number = Decimal(text)
    if len(number.normalize().as_tuple().digits) > SIGNIFICANT_DIGITS:
        raise ValueError(f"it has more than {SIGNIFICANT_DIGITS} significant digits")
    return number


def read_percent(text: str) -> Decimal:
    """Return Decimal(10) for `10%`. Raises ValueError."""
    _expect(text, PERCENT_PATTERN)
    return read_decimal(text.removesuffix("%"))


def read_multiple(text: str) -> Decimal:
    """Return Decimal(20) for `20x`. Raises ValueError."""
    _expect(text, MULTIPLE_PATTERN)
    return read_decimal(text.removesuffix("x"))


def _expect(text: str, pattern: str) -> None:
    if re.fullmatch(pattern, text) is None:
        raise ValueError


def format_decimal(number: Decimal) -> str:
    """Return a decimal in plain notation: `12.5`, `100`, `0.00001`."""
    return f"{number.normalize():f}"
