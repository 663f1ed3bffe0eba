"""Turns what a task is into its digest.

The digest of a task is the SHA-256 of the canonical JSON of its identity: sorted keys, UTF-8, no spaces, no floats. A number that is
no integer is a normalised decimal string; a share is one of coprime integers. Two ways to write one thing must give one digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import Final, TypeAlias

from orchestrator.errors import ContractError

NUMERICS: Final = 1
"""Raised by whoever changes the results that the trainer gives for the same task."""

SIGNIFICANT_DIGITS: Final = 6

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"


def canonical(value: object) -> str:
    """Canonical JSON of `value`. Raises ContractError for floats, other types and keys that are not text."""
    _refuse_what_json_would_blur(value, "$")
    return dumps(value)


def dumps(value: object) -> str:
    """Canonical JSON of a value that is known to hold no float: `canonical` without the check, for whoever built it itself."""
    return _ENCODER.encode(value)


_ENCODER: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return digest_of_text(canonical(value))


def digest_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=4096)
def decimal(value: str | int | float | Decimal | Fraction, *, derived: bool = False) -> str:
    """The one way to write a number in an identity: at most 6 significant digits, `1e-6` and never `0.000001`.

    A derived number is rounded to 6 digits. A given one with more raises ContractError, since rounding it would change what was asked.
    """
    exact = _to_decimal(value)
    if exact == 0:
        return "0"
    rounded = Decimal(f"{exact:.{SIGNIFICANT_DIGITS - 1}e}")
    if not derived and rounded != exact:
        raise ContractError(f"{value} has more than {SIGNIFICANT_DIGITS} significant digits; write {decimal(exact, derived=True)}")
    return _written(rounded)


def _written(number: Decimal) -> str:
    sign, digits, exponent = number.normalize().as_tuple()
    assert isinstance(exponent, int)
    first = len(digits) + exponent - 1
    if -5 < first < SIGNIFICANT_DIGITS:
        return f"{number.normalize():f}"
    mantissa = "".join(map(str, digits))
    point = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' if sign else ''}{mantissa[0]}{point}e{first}"


def _to_decimal(value: str | int | float | Decimal | Fraction) -> Decimal:
    if isinstance(value, Fraction):
        return Decimal(value.numerator) / Decimal(value.denominator)
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise ContractError(f"{value!r} is not a number") from None
    if not number.is_finite():
        raise ContractError(f"{value!r} is not a finite number")
    return number


def coprime(shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Shares as the smallest whole numbers in the same proportions; zero shares are dropped."""
    kept = {name: share for name, share in shares.items() if share}
    if any(share < 0 for share in kept.values()):
        raise ContractError(f"a share is negative: {shares}")
    common = lcm(*(share.denominator for share in kept.values())) if kept else 1
    whole = {name: int(share * common) for name, share in kept.items()}
    divisor = _greatest_common_divisor(whole.values())
    return {name: share // divisor for name, share in sorted(whole.items())}


def _greatest_common_divisor(numbers: Iterable[int]) -> int:
    divisor = 0
    for number in numbers:
        divisor = gcd(divisor, number)
    return divisor or 1


def _refuse_what_json_would_blur(value: object, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ContractError(f"{where}: the key {key!r} is not text")
            _refuse_what_json_would_blur(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _refuse_what_json_would_blur(inner, f"{where}[{index}]")
    else:
        raise ContractError(
            f"{where}: {value!r} ({type(value).__name__}) has no canonical form; numbers that are not whole are decimal strings"
        )
