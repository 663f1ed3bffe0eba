"""The documents of a source in reading order, with text hash, shuffle key and held-out flag.

`training` and `tokens` read sources with it, so both hold out the same documents. Whether a document is held out depends only on its
text, not on its file or source, so the held-out set is the same for every source of a study.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrator.contract.tasks import SHUFFLE_SEED, Reader
from orchestrator.store.corpora import check_unchanged, opened
from trainer.prepare.inputs import InputFile
from trainer.prepare.readers import Skip, records


class Position(NamedTuple):
    """Position between two records of a source: index of the file in reading order, and number of earlier records in that file."""

    file: int
    record: int


START: Final = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Document:
    """`hash`: SHA-256 of the text in UTF-8. `key`: 64 bits; documents are shuffled by sorting them. `size`: bytes of the text in UTF-8."""

    text: str
    size: int
    hash: bytes
    key: int
    is_held_out: bool


class Item(NamedTuple):
    """A record of a source. `after`: position after it. `read`: bytes of files read so far."""

    record: Document | Skip
    after: Position
    read: int


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a source in reading order, with their reader settings."""

    files: Sequence[InputFile]
    reader: Reader
    held_out_one_in: int

    @property
    def size(self) -> int:
        return sum(entry.file.size for entry in self.files)

    @property
    def end(self) -> Position:
        return Position(len(self.files), 0)

    def items(self, start: Position = START) -> Iterator[Item]:
        """Yield every record from `start` on. Raises TaskRefused for an unreadable file, StoreUnavailable for a file that changes."""
        read = sum(entry.file.size for entry in self.files[: start.file])
        copies = _copies(self.files)
        for number in range(start.file, len(self.files)):
            entry = self.files[number]
            skipped = start.record if number == start.file else 0
            name = f"{SHUFFLE_SEED}:{entry.sha256}:{copies[number]}"
            with opened(entry.file) as stream:
                for count, record in enumerate(records(stream, entry.file, self.reader)):
                    if count >= skipped:
                        yield Item(self._to_document(record, f"{name}:{count}"), Position(number, count + 1), read + stream.tell())
            check_unchanged(entry.file)
            read += entry.file.size

    def _to_document(self, record: str | Skip, shuffle_name: str) -> Document | Skip:
        if isinstance(record, Skip):
            return record
        content = record.encode()
        digest = hashlib.sha256(content).digest()
        held_out = self.held_out_one_in > 0 and int.from_bytes(digest, "big") % self.held_out_one_in == 0
        # keyed by position, not by text: otherwise copies of a document would be adjacent in the shuffled order
        key = int.from_bytes(hashlib.blake2b(shuffle_name.encode(), digest_size=8).digest(), "little")
        return Document(record, len(content), digest, key, held_out)


def _copies(files: Sequence[InputFile]) -> list[int]:
    """Return for each file the number of earlier files with the same content; these are adjacent in reading order."""
    copies: list[int] = []
    for number, entry in enumerate(files):
        copies.append(copies[-1] + 1 if number and files[number - 1].sha256 == entry.sha256 else 0)
    return copies
