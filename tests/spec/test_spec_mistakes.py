"""Invalid study files: a table of edits to a valid file, each with its complete error message.

The table is `bad_studies.txt`: a name after `===`, the replaced text after `---`, the new text after `+++`, then the message.
GOLDEN=write rewrites the messages; review them before committing.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import InvalidStudy
from orchestrator.spec import read_bytes

HERE = Path(__file__).parent
GOOD = (HERE / "good_study.yaml").read_text()
TABLE = HERE / "bad_studies.txt"


@dataclass(frozen=True)
class InvalidExample:
    """A row of the table."""

    name: str
    edits: tuple[tuple[str, str], ...]
    message: str

    @property
    def text(self) -> str:
        text = GOOD
        for old, new in self.edits:
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in the valid study"
            text = text.replace(old, new)
        return text

    def block(self, message: str) -> str:
        edits = "".join(f"--- {_escaped(old)}\n+++ {_escaped(new)}\n" for old, new in self.edits)
        return f"=== {self.name}\n{edits}{message}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _plain(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


def _read_table() -> list[InvalidExample]:
    return [_parse_block(block.rstrip("\n").split("\n")) for block in TABLE.read_text().split("=== ")[1:]]


def _parse_block(lines: list[str]) -> InvalidExample:
    old = [_plain(line[4:]) for line in lines if line.startswith("--- ")]
    new = [_plain(line[4:]) for line in lines if line.startswith("+++ ")]
    message = "\n".join(line for line in lines[1:] if not line.startswith(("--- ", "+++ ")))
    return InvalidExample(lines[0], tuple(zip(old, new, strict=True)), message)


def message_of(text: str) -> str:
    """Return the error message for `text` as `study.yaml`, or "" if it is valid."""
    try:
        read_bytes(text.encode(), "study.yaml")
    except InvalidStudy as mistakes:
        return str(mistakes)
    return ""


EXAMPLES = _read_table()

if os.environ.get("GOLDEN") == "write":
    TABLE.write_text("\n".join(example.block(message_of(example.text)) for example in EXAMPLES))
    EXAMPLES = _read_table()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_invalid_study_has_the_expected_message(example: InvalidExample) -> None:
    assert message_of(example.text) == example.message


def test_table_has_at_least_sixty_unique_invalid_studies() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES) >= 60
    assert not [example.name for example in EXAMPLES if not example.message]


def test_the_unedited_study_is_valid() -> None:
    assert message_of(GOOD) == ""


def test_every_message_has_a_place_and_advice() -> None:
    for example in EXAMPLES:
        lines = example.message.split("\n")
        assert len(lines) % 2 == 0, example.name
        for place, advice in zip(lines[::2], lines[1::2], strict=True):
            assert place.startswith("study.yaml"), example.name
            assert advice.startswith("    "), example.name
            assert advice.strip(), example.name
