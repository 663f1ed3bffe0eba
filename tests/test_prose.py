"""Phrases of a private language that must not come back: docstrings, comments, messages and help are plain technical English."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("orchestrator", "analysis", "trainer_image/trainer")
TEXTS: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")

PHRASES: Final = (
    r"\bwhoever\b", r"\bwhom\b", r"\bsomebody\b", r"\bnobody\b",
    r"\bis told\b", r"\bare told\b", r"\btold so\b", r"\bsays so\b", r"\bgoes on\b", r"\bgo on\b",
    r"\bstands? (?:at|for ever|in|on|there)\b",
    r"\bgoes away\b", r"\bis away\b", r"\bforgiven\b", r"\bforgives\b", r"\bfor ever\b", r"\bmends?\b", r"\bmended\b",
    r"\breckoned\b", r"\blook (?:at|after) a study\b", r"\bbelieve any\b",
    r"\bwhat does it\b", r"\bas it is written\b", r"\bnot any more\b",
)  # fmt: skip
PATTERN: Final = re.compile("|".join(PHRASES), re.IGNORECASE)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a module by line number."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def findings() -> Iterator[str]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from (f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for number, line in prose(path) if PATTERN.search(line))
    for name in TEXTS:
        lines = (ROOT / name).read_text().splitlines()
        yield from (f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if PATTERN.search(line))


def test_prose_is_plain() -> None:
    found = list(findings())
    assert found == [], f"{len(found)} lines to rewrite"


@pytest.mark.parametrize(
    "line", ["# Whoever reads it is told so", '"""Lets a stopped study go on."""', "# A store that is away is forgiven"]
)
def test_the_pattern_matches_unclear_phrases(line: str) -> None:
    assert PATTERN.search(line)
