"""Mistakes in a study file and their messages: place, given value, allowed values, and correction."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

MAX_SHOWN_LENGTH: Final = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `line` is 0 for an object from a cluster. `wrong`: given and allowed values. `advice`: the correction."""

    file: str
    line: int
    where: str
    wrong: str
    advice: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return escaped(": ".join(part for part in (place, self.where, self.wrong) if part)) + f"\n    {escaped(self.advice)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake without file and line.

    `depends_on`: other paths that the finding depends on, `"*"` for any entry; if one of them is invalid, the finding is dropped.
    `hides_dependents`: whether findings that depend on this one's path are dropped too.
    """

    path: Path
    wrong: str
    advice: str
    depends_on: tuple[Path, ...] = ()
    hides_dependents: bool = False

    def placed(self, file: str, line: int) -> Mistake:
        return Mistake(file, line, format_path(self.path), self.wrong, self.advice)

    def under(self, parent: Path) -> "Finding":
        """Return the finding with its paths prefixed."""
        return replace(self, path=(*parent, *self.path), depends_on=tuple((*parent, *path) for path in self.depends_on))


def escaped(text: str) -> str:
    """Return the text with escapes such as `\\x1b` and `\\u202e` for characters that would change what a terminal shows."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def format_path(path: Path) -> str:
    """Return the path as text: `spec.grid.sizes[1]`, `spec.execution.gpusPerPod["2.8B"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch("[A-Za-z0-9_-]+", part):
            text += f".{part}"
        else:
            text += f'["{escaped(part[:MAX_SHOWN_LENGTH])}"]'
    return text.removeprefix(".")


def format_value(value: object) -> str:
    """Return the value for a message: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = f'"{value}"' if value.isprintable() else repr(value)
        return text if len(text) <= MAX_SHOWN_LENGTH else text[: MAX_SHOWN_LENGTH - 4] + '..."'
    if isinstance(value, Mapping):
        return "a mapping" + (f" ({', '.join(escaped(str(key)[:20]) for key in list(value)[:4])})" if value else " without keys")
    if isinstance(value, Sequence):
        return f"a list of {len(value)}" if value else "an empty list"
    text = str(value)
    return text if len(text) <= MAX_SHOWN_LENGTH else text[: MAX_SHOWN_LENGTH - 3] + "..."


def format_list(words: Iterable[object], limit: int = 12) -> str:
    """Return `a, b, c`, with the middle of a long list elided."""
    texts = [str(word) for word in words]
    return ", ".join(texts if len(texts) <= limit else [*texts[: limit - 2], "...", texts[-1]])


def closest_match(given: object, known: Iterable[str]) -> str:
    """Return the entry of `known` that is most similar to `given`, or ""."""
    by_normalized = {_normalized(word): word for word in known}
    normalized = _normalized(str(given)[:MAX_SHOWN_LENGTH])
    if normalized in by_normalized:
        return by_normalized[normalized]
    close = difflib.get_close_matches(normalized, by_normalized, n=1, cutoff=0.6)
    return by_normalized[close[0]] if close else ""


def did_you_mean(given: object, known: Iterable[str], otherwise: str) -> str:
    """Return `Did you mean "x"?`, or `otherwise` if nothing is similar."""
    word = closest_match(given, known)
    return f'Did you mean "{word}"?' if word else otherwise


def _normalized(word: str) -> str:
    return re.sub("[-_ ]", "", word.lower())
