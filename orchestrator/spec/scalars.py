"""The value of a plain YAML scalar, and which scalars are rejected.

`orchestrator.spec.yaml_text` calls it for every unquoted scalar. kubectl reads YAML with a parser that mixes 1.1 and 1.2, Python's
reads 1.1: scalars that the two read differently are rejected, so that a file has one meaning.
"""

import re
from typing import Final, TypeAlias

Wrong: TypeAlias = tuple[str, str]
"""The problem and its correction."""

NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

# JSON readers keep integers exactly up to here
LARGEST_PLAIN: Final = 2**53

_INTEGER: Final = re.compile("[-+]?(0|[1-9][0-9]*)")

# kubectl's parser (go-yaml 2) takes these words for true and false, YAML 1.2 for text
_YES: Final = re.compile("y|Y|yes|Yes|YES|on|On|ON")
_NO: Final = re.compile("n|N|no|No|NO|off|Off|OFF")
_FLOAT: Final = re.compile(r"[-+]?([.][0-9][0-9_]*|[0-9][0-9_]*([.][0-9_]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER: Final = re.compile(r"[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)")
_LEADING_ZERO: Final = re.compile("[-+]?0[0-9_]+")
_OTHER_BASE: Final = re.compile("[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)")
_UNDERSCORES: Final = re.compile("[-+]?[1-9][0-9]*(_[0-9]*)+")
_SIXTIES: Final = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+([.][0-9_]*)?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?")


def plain_scalar(text: str) -> tuple[object, Wrong | None]:
    """Return the value of an unquoted scalar, and its problem if any."""
    if text in NULLS:
        return None, None
    if text in BOOLEANS:
        return BOOLEANS[text], None
    if _INTEGER.fullmatch(text):
        return _integer(text)
    return text, _doubt(text)


def _integer(text: str) -> tuple[object, Wrong | None]:
    if len(text) > 17 or abs(int(text)) > LARGEST_PLAIN:
        quoted = text.lstrip("+") if len(text) <= 40 else "..."
        return text, (f"{_short(text)} is past 2^53, where JSON readers round integers", f'Write "{quoted}" in quotes.')
    return int(text), None


def _doubt(text: str) -> Wrong | None:
    quoted = f'Write "{_short(text)}" in quotes.'
    if _YES.fullmatch(text):
        return f"{text} without quotes is true for kubectl and text in YAML 1.2", f'Write true, or "{text}" in quotes for the text.'
    if _NO.fullmatch(text):
        return f"{text} without quotes is false for kubectl and text in YAML 1.2", f'Write false, or "{text}" in quotes for the text.'
    if _LEADING_ZERO.fullmatch(text):
        return (
            f"{_short(text)} is octal in YAML 1.1 and decimal in 1.2",
            f'Write {_bare(text)}, or "{_short(text)}" in quotes for the text.',
        )
    if _OTHER_BASE.fullmatch(text):
        return f"{_short(text)} is a number in another base, which not every reader of YAML knows", "Write the number in base ten."
    if _UNDERSCORES.fullmatch(text):
        return f"{_short(text)} is a number for kubectl and text in YAML 1.2", f"Write {_short(text.replace('_', ''))}."
    if _FLOAT.fullmatch(text):
        whole = re.fullmatch("([1-9][0-9]*)[.]0*", text)
        wrong = f"{_short(text)} without quotes is a floating-point number, and a study holds none"
        return wrong, f"Write {_short(whole[1])}." if whole else quoted
    if _NO_NUMBER.fullmatch(text):
        return f"{text} is no number that a study can hold", "Write a finite number."
    if _SIXTIES.fullmatch(text):
        return f"{_short(text)} counts sixties in YAML 1.1 and is text in 1.2", quoted
    if _DATE.fullmatch(text):
        return f"{_short(text)} is a date in YAML 1.1 and text in 1.2", quoted
    if text in ("<<", "="):
        return f"{text} without quotes has a meaning of its own in YAML 1.1 and none in 1.2", quoted
    return None


def _bare(text: str) -> str:
    return _short(text.replace("_", "").lstrip("+0")) or "0"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
