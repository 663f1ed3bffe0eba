"""Mistakes in a study file and their messages: place, given value, allowed values, and the correction."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

LONGEST_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `line` is 0 for an object from a cluster. `wrong`: the given value and the allowed ones."""

    file: str
    line: int
    where: str
    wrong: str
    write: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.where, self.wrong) if part) + f"\n    {self.write}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake without file and line.

    `reads`: what else the finding rests on, `"*"` for any entry; where one of these is broken itself, the finding is dropped. `voids`: so
    much that what rests on this one's path is not worth telling either.
    """

    path: Path
    wrong: str
    write: str
    reads: tuple[Path, ...] = ()
    voids: bool = False

    def placed(self, file: str, line: int) -> Mistake:
        return Mistake(file, line, written_path(self.path), self.wrong, self.write)

    def under(self, parent: Path) -> "Finding":
        """Return the finding with its paths prefixed."""
        return replace(self, path=(*parent, *self.path), reads=tuple((*parent, *path) for path in self.reads))


def written_path(path: Path) -> str:
    """`spec.grid.sizes[1]`, `spec.execution.gpusPerPod["2.8B"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch("[A-Za-z0-9_-]+", part):
            text += f".{part}"
        else:
            text += f'["{part[:LONGEST_SHOWN]}"]'
    return text.removeprefix(".")


def shown(value: object) -> str:
    """Return a value for a message: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = f'"{value}"' if value.isprintable() else repr(value)
        return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 4] + '..."'
    if isinstance(value, Mapping):
        return "a mapping" + (f" ({', '.join(str(key)[:20] for key in list(value)[:4])})" if value else " without keys")
    if isinstance(value, Sequence):
        return f"a list of {len(value)}" if value else "an empty list"
    text = str(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def listed(words: Iterable[object], most: int = 12) -> str:
    """Return `a, b, c`, without the middle of a long list."""
    every = [str(word) for word in words]
    return ", ".join(every if len(every) <= most else [*every[: most - 2], "...", every[-1]])


def nearest(given: object, known: Iterable[str]) -> str:
    """Return the entry of `known` that is most similar to `given`, or ""."""
    by_look = {_look(word): word for word in known}
    look = _look(str(given)[:LONGEST_SHOWN])
    if look in by_look:
        return by_look[look]
    close = difflib.get_close_matches(look, by_look, n=1, cutoff=0.6)
    return by_look[close[0]] if close else ""


def did_you_mean(given: object, known: Iterable[str], otherwise: str) -> str:
    """Return `Did you mean "x"?`, or `otherwise` if nothing is similar."""
    word = nearest(given, known)
    return f'Did you mean "{word}"?' if word else otherwise


def _look(word: str) -> str:
    return re.sub("[-_ ]", "", word.lower())
