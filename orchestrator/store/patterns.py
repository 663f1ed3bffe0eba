"""Patterns for the files of a source: `*`, `?` and `[...]` within a folder, `**` across folders. Pure.

`corpora` matches paths with them. The time to match a path is linear in its length, whatever the pattern: a regular expression with several
`**` backtracks exponentially.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Final, TypeAlias

from orchestrator.errors import StoreError

WILDCARD: Final = re.compile(r"[*?\[]")
_ANY_FOLDERS: Final = "**"
_RANGE: Final = re.compile(r"\[[!^]?([^\]])-([^\]])\]")

Positions: TypeAlias = frozenset[int]


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern, split at its slashes. A position is the number of segments that matched so far."""

    segments: tuple[str, ...]

    @property
    def start(self) -> Positions:
        return self._after_folders({0})

    def advance(self, positions: Positions, name: str) -> Positions:
        """Return the positions after one more folder or file name; empty if no path through it matches."""
        found = set()
        for position in positions:
            segment = self.segments[position] if position < len(self.segments) else None
            if segment == _ANY_FOLDERS and not name.startswith("."):
                found.add(position)
            elif segment is not None and segment != _ANY_FOLDERS and _matches(segment, name):
                found.add(position + 1)
        return self._after_folders(found)

    def is_complete(self, positions: Positions) -> bool:
        return len(self.segments) in positions

    def matches(self, path: Sequence[str]) -> bool:
        """Return whether the names of a path match the whole pattern."""
        positions = self.start
        for name in path:
            positions = self.advance(positions, name)
            if not positions:
                return False
        return self.is_complete(positions)

    def _after_folders(self, positions: set[int]) -> Positions:
        """Add the positions after each `**`, which matches no folder too."""
        for position in list(positions):
            if position < len(self.segments) and self.segments[position] == _ANY_FOLDERS:
                positions.add(position + 1)
        return frozenset(positions)


def parse_pattern(text: str) -> PathPattern:
    """Return a pattern of file names; repeated `**` count once. Raises StoreError for an empty range."""
    for match in _RANGE.finditer(text):
        if match[1] > match[2]:
            raise StoreError(f"{text}: {match[0]} is an empty range; write [{match[2]}-{match[1]}]")
    segments: list[str] = []
    for segment in text.split("/"):
        if segment not in ("", ".") and not (segment == _ANY_FOLDERS and segments[-1:] == [_ANY_FOLDERS]):
            segments.append(segment)
    # a `**` at the end matches the files in all folders
    return PathPattern((*segments, "*") if segments[-1:] == [_ANY_FOLDERS] else tuple(segments))


@lru_cache(maxsize=1024)
def _compile(segment: str) -> re.Pattern[str]:
    return re.compile(translate(segment))


def _matches(segment: str, name: str) -> bool:
    if not WILDCARD.search(segment):
        return segment == name
    # as in a shell, a wildcard does not match a leading dot
    return (segment.startswith(".") or not name.startswith(".")) and _compile(segment).fullmatch(name) is not None
