"""The value of a plain YAML scalar, and which scalars are rejected.

`orchestrator.spec.yaml_text` calls it for every unquoted scalar. kubectl's parser mixes YAML 1.1 and 1.2, Python's implements 1.1.
Scalars that the two parsers read differently are rejected, so a file has one meaning.
"""

import re
from typing import Final, TypeAlias

Rejection: TypeAlias = tuple[str, str]
"""The problem and its correction."""

NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

# The largest integer that every JSON reader represents exactly
MAX_SAFE_INTEGER: Final = 2**53

_INTEGER: Final = re.compile("[-+]?(0|[1-9][0-9]*)")

# Booleans for kubectl's parser (go-yaml 2), text in YAML 1.2
_TRUE_WORDS: Final = re.compile("y|Y|yes|Yes|YES|on|On|ON")
_FALSE_WORDS: Final = re.compile("n|N|no|No|NO|off|Off|OFF")
_FLOAT: Final = re.compile(r"[-+]?([.][0-9][0-9_]*|[0-9][0-9_]*([.][0-9_]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)")
_LEADING_ZERO: Final = re.compile("[-+]?0[0-9_]+")
_OTHER_BASE: Final = re.compile("[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)")
_UNDERSCORES: Final = re.compile("[-+]?[1-9][0-9]*(_[0-9]*)+")
_BASE_60: Final = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+([.][0-9_]*)?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?")


def plain_scalar(text: str) -> tuple[object, Rejection | None]:
    """Return the value of an unquoted scalar, and its problem if any."""
    if text in NULLS:
        return None, None
    if text in BOOLEANS:
        return BOOLEANS[text], None
    if _INTEGER.fullmatch(text):
        return _integer(text)
    return text, _ambiguity(text)


def _integer(text: str) -> tuple[object, Rejection | None]:
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        quoted = text.lstrip("+") if len(text) <= 40 else "..."
        return text, (f"{_short(text)} is above 2^53, where JSON readers round integers", f'Write "{quoted}" in quotes.')
    return int(text), None


def _ambiguity(text: str) -> Rejection | None:
    quoted = f'Write "{_short(text)}" in quotes.'
    if _TRUE_WORDS.fullmatch(text):
        return f"{text} without quotes is true for kubectl and text in YAML 1.2", f'Write true, or "{text}" in quotes for the text.'
    if _FALSE_WORDS.fullmatch(text):
        return f"{text} without quotes is false for kubectl and text in YAML 1.2", f'Write false, or "{text}" in quotes for the text.'
    if _LEADING_ZERO.fullmatch(text):
        return (
            f"{_short(text)} is octal in YAML 1.1 and decimal in 1.2",
            f'Write {_bare(text)}, or "{_short(text)}" in quotes for the text.',
        )
    if _OTHER_BASE.fullmatch(text):
        return f"{_short(text)} is a number in another base, which YAML parsers read differently", "Write the number in base ten."
    if _UNDERSCORES.fullmatch(text):
        return f"{_short(text)} is a number for kubectl and text in YAML 1.2", f"Write {_short(text.replace('_', ''))}."
    if _FLOAT.fullmatch(text):
        whole = re.fullmatch("([1-9][0-9]*)[.]0*", text)
        wrong = f"{_short(text)} without quotes is a floating-point number, which a study file cannot contain"
        return wrong, f"Write {_short(whole[1])}." if whole else quoted
    if _NOT_FINITE.fullmatch(text):
        return f"{text} is not a finite number", "Write a finite number."
    if _BASE_60.fullmatch(text):
        return f"{_short(text)} is a base-60 number in YAML 1.1 and text in 1.2", quoted
    if _DATE.fullmatch(text):
        return f"{_short(text)} is a date in YAML 1.1 and text in 1.2", quoted
    if text in ("<<", "="):
        return f"{text} without quotes has a special meaning in YAML 1.1 and none in 1.2", quoted
    return None


def _bare(text: str) -> str:
    return _short(text.replace("_", "").lstrip("+0")) or "0"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
