"""Canonical JSON and the digest of a task.

The digest of a task is the SHA-256 of the canonical JSON of its identity: sorted keys, UTF-8, no spaces, no floats. Non-integer numbers are
normalised decimal strings; shares are coprime integers. Equivalent spellings of a value have the same digest.
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
"""Raise this number when a change of the trainer changes the results of the same task."""

SIGNIFICANT_DIGITS: Final = 6

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"


def canonical(value: object) -> str:
    """Return the canonical JSON of `value`. Raises ContractError for floats, other types and non-string keys."""
    _check_canonical(value, "$")
    return dumps(value)


def dumps(value: object) -> str:
    """Return the canonical JSON of a value without the checks of `canonical`, for values known to contain no float."""
    return _ENCODER.encode(value)


_ENCODER: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest_of(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value` as 64 hex digits."""
    return digest_of_text(canonical(value))


def digest_of_text(text: str) -> str:
    """Return the SHA-256 of a UTF-8 text as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=4096)
def decimal(value: str | int | float | Decimal | Fraction, *, derived: bool = False) -> str:
    """Return the normalised decimal string of a number: at most 6 significant digits, `1e-6` and not `0.000001`.

    A derived number is rounded to 6 digits. A given number with more digits raises ContractError, since rounding would change its value.
    """
    exact = _to_decimal(value)
    if exact == 0:
        return "0"
    rounded = Decimal(f"{exact:.{SIGNIFICANT_DIGITS - 1}e}")
    if not derived and rounded != exact:
        raise ContractError(f"{value} has more than {SIGNIFICANT_DIGITS} significant digits; write {decimal(exact, derived=True)}")
    return _format(rounded)


def _format(number: Decimal) -> str:
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
    """Return shares as the smallest integers in the same proportions, sorted by name; zero shares are dropped."""
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


def _check_canonical(value: object, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ContractError(f"{where}: the key {key!r} is not a string")
            _check_canonical(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _check_canonical(inner, f"{where}[{index}]")
    else:
        raise ContractError(
            f"{where}: {value!r} ({type(value).__name__}) has no canonical form; write non-integer numbers as decimal strings"
        )
