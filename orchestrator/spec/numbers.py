"""Reads the numbers that people write in a study file: `470M`, `200B`, `20x`, `10%`, `"12.5"`, `1MiB`.

`orchestrator.spec.models` uses these as the types of its fields; `orchestrator.crd` takes pattern and bounds from them. A number in the
file is an integer or a string; nothing here ever sees or makes a float.
"""

import re
from collections.abc import Callable
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

PLAIN_DECIMAL: Final = r"-?(0|[1-9][0-9]{0,17})([.][0-9]{1,17})?(e[+-]?[0-9]{1,2})?"
_DECIMAL: Final = re.compile(PLAIN_DECIMAL)
_COUNT: Final = re.compile(r"(0|[1-9][0-9]{0,17})([.][0-9]{1,12})?([kKMGBT]|[KMGT]iB)?")


@dataclass(frozen=True)
class Quantity:
    """A field's type: how its text becomes a number, what people are told is allowed, and what the CRD says of it.

    `low` and `high` are inclusive unless `above`, which excludes `low`. `plain`: an unquoted integer is allowed too.
    """

    read: Callable[[str], Exact]
    allowed: str
    example: str
    pattern: str
    low: int | Decimal | None = None
    high: int | Decimal | None = None
    above: bool = False
    plain: bool = True

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def validate(self, given: object) -> Exact:
        """The number that `given` stands for. Raises PydanticCustomError, whose context has `allowed` and `write`."""
        if isinstance(given, Decimal):
            number = given
        elif isinstance(given, str):
            number = self._read_text(given)
        elif isinstance(given, int) and not isinstance(given, bool) and self.plain:
            number = self._read_plain(given)
        else:
            self.refuse()
        return self._within(number)

    def _read_text(self, text: str) -> Exact:
        try:
            return self.read(text)
        except ValueError as problem:
            self.refuse(str(problem))

    def _read_plain(self, number: int) -> Exact:
        if abs(number) > LARGEST_PLAIN:
            self.refuse("", f'"{number}" in quotes, since JSON readers round integers past 2^53')
        return self._read_text(str(number))

    def _within(self, number: Exact) -> Exact:
        too_low = self.low is not None and (number < self.low or (self.above and number == self.low))
        if too_low or (self.high is not None and number > self.high):
            self.refuse()
        return number

    def refuse(self, because: str = "", write: str = "") -> NoReturn:
        context = {"allowed": self.allowed, "because": because, "write": write or self.example}
        raise PydanticCustomError("quantity", "{allowed}", context)


def read_count(text: str) -> int:
    """A whole number: `4096`, `470M`, `2.8B`, `1.5T`. Raises ValueError."""
    return _scaled(text, COUNT_UNITS)


def read_bytes(text: str) -> int:
    """A number of bytes: `10G` (powers of ten) or `1MiB` (powers of two). Raises ValueError."""
    return _scaled(text, BYTE_UNITS)


def _scaled(text: str, units: dict[str, int]) -> int:
    match = _COUNT.fullmatch(text)
    if match is None or (match[3] or "") not in units:
        raise ValueError("")
    number = Decimal(match[1] + (match[2] or "")) * units[match[3] or ""]
    if number != int(number):
        raise ValueError("it is not whole")
    if number > LARGEST_COUNT:
        raise ValueError("it is past 1e18")
    return int(number)


def read_whole(text: str) -> int:
    """A whole number without a unit. Raises ValueError."""
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text) is None:
        raise ValueError("")
    return int(text)


def read_decimal(text: str) -> Decimal:
    """A decimal number of at most 6 significant digits, as the identity of a task can hold it. Raises ValueError."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError("")
    number = Decimal(text)
    if len(number.normalize().as_tuple().digits) > SIGNIFICANT_DIGITS:
        raise ValueError(f"it has more than {SIGNIFICANT_DIGITS} significant digits")
    return number


def read_percent(text: str) -> Decimal:
    """`10%` -> Decimal(10). Raises ValueError."""
    if not text.endswith("%"):
        raise ValueError("it has no % sign")
    return read_decimal(text.removesuffix("%"))


def read_multiple(text: str) -> Decimal:
    """`20x` -> Decimal(20). Raises ValueError."""
    if not text.endswith("x"):
        raise ValueError("it has no x")
    return read_decimal(text.removesuffix("x"))
