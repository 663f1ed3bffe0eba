"""The limit on the length of a line of JSON Lines, and the memory for a compressed file that exceeds it."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from trainer.prepare import readers

from orchestrator.errors import TaskRefused
from orchestrator.store.corpora import expand, opened
from tests.trainer.workplace import READER, lines_of

LIMIT = 2**20
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "long.jsonl": lambda content: content,
    "long.jsonl.gz": gzip.compress,
    "long.jsonl.zst": zstandard.compress,
}


def read(path: Path, content: bytes, **limits: int) -> list[readers.Entry]:
    """Write the file and return its records."""
    path.write_bytes(content)
    (file,) = expand(str(path), path.parent)
    with opened(file) as stream:
        return list(readers.records(stream, file, READER, **limits))


@pytest.mark.parametrize("name", FORMATS)
def test_line_above_the_limit_is_refused_by_file_and_line(name: str, tmp_path: Path) -> None:
    longest = lines_of(["a" * (LIMIT - len(lines_of([""])))])
    assert len(longest) == LIMIT
    pack = FORMATS[name]
    assert len(read(tmp_path / name, pack(longest + longest), longest_line=LIMIT)) == 2
    with pytest.raises(TaskRefused, match=rf"{name}:2: the line is longer than 1,048,576 bytes"):
        read(tmp_path / name, pack(longest + b'{"text": "' + b"a" * LIMIT), longest_line=LIMIT)


@pytest.mark.parametrize("name", ["long.jsonl.gz", "long.jsonl.zst"])
def test_memory_for_a_compressed_giant_line_is_bounded(name: str, tmp_path: Path) -> None:
    content = FORMATS[name](b'{"text": "' + b"a" * 2**27)
    tracemalloc.start()
    try:
        with pytest.raises(TaskRefused, match=rf"{name}:1: the line is longer"):
            read(tmp_path / name, content, longest_line=LIMIT, chunk=2**8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**25, f"{peak:,} bytes for a line of {2**27:,}"
