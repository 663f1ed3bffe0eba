"""Bad study files: a table of edits to a good one, each with the whole message that people get.

`bad_studies.txt` is the table: a name after `===`, what is replaced after `---`, by what after `+++`, then the message.
GOLDEN=write writes the messages anew; read them before you commit them.
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
class Bad:
    name: str
    edits: tuple[tuple[str, str], ...]
    message: str

    @property
    def text(self) -> str:
        text = GOOD
        for old, new in self.edits:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the good study"
            text = text.replace(old, new)
        return text

    def written(self, message: str) -> str:
        edits = "".join(f"--- {_escaped(old)}\n+++ {_escaped(new)}\n" for old, new in self.edits)
        return f"=== {self.name}\n{edits}{message}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _plain(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


def _table() -> list[Bad]:
    return [_entry(block.rstrip("\n").split("\n")) for block in TABLE.read_text().split("=== ")[1:]]


def _entry(lines: list[str]) -> Bad:
    old = [_plain(line[4:]) for line in lines if line.startswith("--- ")]
    new = [_plain(line[4:]) for line in lines if line.startswith("+++ ")]
    message = "\n".join(line for line in lines[1:] if not line.startswith(("--- ", "+++ ")))
    return Bad(lines[0], tuple(zip(old, new, strict=True)), message)


def message_of(text: str) -> str:
    """What reading `text` as `study.yaml` says, or "" where it is a good study."""
    try:
        read_bytes(text.encode(), "study.yaml")
    except InvalidStudy as mistakes:
        return str(mistakes)
    return ""


BAD = _table()

if os.environ.get("GOLDEN") == "write":
    TABLE.write_text("\n".join(bad.written(message_of(bad.text)) for bad in BAD))
    BAD = _table()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_study_is_told_in_full(bad: Bad) -> None:
    assert message_of(bad.text) == bad.message


def test_the_table_holds_more_than_sixty_studies_and_no_good_one() -> None:
    assert len({bad.name for bad in BAD}) == len(BAD) >= 60
    assert not [bad.name for bad in BAD if not bad.message]


def test_the_study_that_they_are_made_from_is_good() -> None:
    assert message_of(GOOD) == ""


def test_every_message_says_where_what_and_what_to_do() -> None:
    for bad in BAD:
        lines = bad.message.split("\n")
        assert len(lines) % 2 == 0, bad.name
        for place, advice in zip(lines[::2], lines[1::2], strict=True):
            assert place.startswith("study.yaml"), bad.name
            assert advice.startswith("    "), bad.name
            assert advice.strip(), bad.name
