"""Read the documents of one file: JSON lines, Parquet, plain text, source code.

`documents` calls `records` for each file of a source. Invalid records are skipped and counted by reason in the task's record. Errors in
the file or the study, such as a truncated archive or a missing column, refuse the task.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import count
from typing import Any, BinaryIO, Final, TypeAlias

from orchestrator.contract import files
from orchestrator.contract.tasks import Reader
from orchestrator.errors import TaskRefused
from orchestrator.store.corpora import CorpusFile


class Skip(StrEnum):
    """Reason for skipping a record; the value is the name of its count in the results."""

    LARGE = "skipped_large"
    BINARY = "skipped_binary"
    BROKEN_UTF8 = "skipped_broken_utf8"
    BROKEN_JSON = "skipped_broken_json"
    WITHOUT_TEXT = "skipped_without_text"
    EMPTY = "skipped_empty"


Entry: TypeAlias = str | Skip
"""The text of a document, or the reason for skipping it."""

# A text file is one document; several copies of it are in memory while it is tokenised.
_LARGEST_TEXT: Final = 1 << 30
# Bytes of a line of a JSON Lines file: far above any document, and far below what a small compressed file can hold. Reading a line takes
# about four times its size; a line that is one list of many small values takes up to twenty times.
_LONGEST_LINE: Final = 1 << 28
# If none of the first objects has a text, the column is wrong: refuse early, not after a terabyte.
_OBJECTS_TRIED: Final = 100
# A zst block of 4 bytes can hold 128 KiB, and all content of a chunk is decompressed at once: at most 128 MiB
_COMPRESSED_CHUNK: Final = 1 << 12
_PARQUET_ROWS: Final = 1024


def records(
    stream: BinaryIO, file: CorpusFile, reader: Reader, *, longest_line: int = _LONGEST_LINE, chunk: int = _COMPRESSED_CHUNK
) -> Iterator[Entry]:
    """Yield every record of a file in order.

    `longest_line`: maximum bytes of a line. `chunk`: bytes of a zst file that are decompressed at once. Raises TaskRefused if the file is
    not of the format of its name.
    """
    match file.kind.reader:
        case files.JSON_LINES:
            return _json_lines(_lines(stream, file, longest_line), file, reader.column)
        case files.JSON_LINES_GZ:
            return _json_lines(_gunzipped(stream, file, longest_line), file, reader.column)
        case files.JSON_LINES_ZST:
            return _json_lines(_unzstandard(stream, file, longest_line, chunk), file, reader.column)
        case files.PARQUET:
            return _parquet(stream, file, reader.column)
        case files.TEXT:
            return iter([_text(stream, file)])
        case files.CODE:
            return iter([Skip.LARGE if file.size > reader.max_file_bytes else _decoded(stream.read())])
    raise TaskRefused(f"{file.name}: unknown reader {file.kind.reader!r}")


def _text(stream: BinaryIO, file: CorpusFile) -> Entry:
    if file.size > _LARGEST_TEXT:
        raise TaskRefused(
            f"{file.name}: {file.size:,} bytes of text in one file are one document, at most {_LARGEST_TEXT:,} are allowed; "
            "split it into one file per document, or use JSON lines"
        )
    return _decoded(stream.read())


def _decoded(content: bytes) -> Entry:
    if b"\0" in content:
        return Skip.BINARY
    try:
        return _kept(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Skip.BROKEN_UTF8


def _kept(text: str) -> Entry:
    return text if text and not text.isspace() else Skip.EMPTY


def _json_lines(lines: Iterable[bytes], file: CorpusFile, column: str) -> Iterator[Entry]:
    without_text, found_text = 0, False
    for line in lines:
        if line.isspace():
            continue
        entry, keys = _json_record(line, column)
        yield entry
        found_text |= entry != Skip.WITHOUT_TEXT
        without_text += entry == Skip.WITHOUT_TEXT
        if without_text >= _OBJECTS_TRIED and not found_text:
            raise TaskRefused(
                f"{file.name}: none of its first {_OBJECTS_TRIED} objects has a text under {column!r}; the last one's keys are "
                f"{', '.join(map(repr, keys[:20]))}; set the source's `column`"
            )


def _json_record(line: bytes, column: str) -> tuple[Entry, list[str]]:
    try:
        document: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Skip.BROKEN_UTF8, []
    except (ValueError, RecursionError):
        return Skip.BROKEN_JSON, []
    if not isinstance(document, dict):
        return Skip.BROKEN_JSON, []
    return _checked(document.get(column)), list(document)


def _checked(text: object) -> Entry:
    """Return a text from JSON or Parquet. JSON can contain a lone surrogate, which is not valid text."""
    if not isinstance(text, str):
        return Skip.WITHOUT_TEXT
    try:
        text.encode()
    except UnicodeEncodeError:
        return Skip.BROKEN_UTF8
    return _kept(text)


def _lines(stream: BinaryIO | gzip.GzipFile, file: CorpusFile, longest: int) -> Iterator[bytes]:
    """Yield the lines of a stream. Raises TaskRefused for a line above the limit, before more of it is in memory."""
    for number in count(1):
        line = stream.readline(longest + 1)
        if not line:
            return
        if len(line) > longest:
            raise TaskRefused(
                f"{file.name}:{number}: the line is longer than {longest:,} bytes, the limit for one document; "
                "write one JSON object per line, and split larger documents"
            )
        yield line


def _gunzipped(stream: BinaryIO, file: CorpusFile, longest_line: int) -> Iterator[bytes]:
    try:
        with gzip.open(stream) as content:
            yield from _lines(content, file, longest_line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise TaskRefused(f"{file.name}: is not a complete gzip file: {problem}; download it again and plan again") from problem


def _unzstandard(stream: BinaryIO, file: CorpusFile, longest_line: int, chunk: int) -> Iterator[bytes]:
    import zstandard

    try:
        yield from _lines(io.BufferedReader(_ZstandardFrames(stream, file, chunk), 1 << 20), file, longest_line)
    except zstandard.ZstdError as problem:
        raise TaskRefused(f"{file.name}: is not a complete zst file: {problem}; download it again and plan again") from problem


class _ZstandardFrames(io.RawIOBase):
    """Stream of concatenated zstd frames. The library's own reader treats a truncated frame as the end of the file."""

    def __init__(self, stream: BinaryIO, file: CorpusFile, chunk: int) -> None:
        import zstandard

        self._stream, self._file, self._chunk_bytes = stream, file, chunk
        self._library = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame: Any = None
        self._rest, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as typeshed has it
        while not self._ready:
            chunk = self._rest or self._stream.read(self._chunk_bytes)
            if not chunk:
                return self._end()
            self._ready = memoryview(self._decompressed(chunk))
        taken = min(len(buffer), len(self._ready))
        buffer[:taken] = self._ready[:taken]
        self._ready = self._ready[taken:]
        return taken

    def _decompressed(self, chunk: bytes) -> bytes:
        self._frame = self._frame or self._library.decompressobj()
        content: bytes = self._frame.decompress(chunk)
        self._rest = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return content

    def _end(self) -> int:
        if self._frame is not None:
            raise TaskRefused(f"{self._file.name}: is truncated: it ends inside a zst frame; download it again and plan again")
        return 0


def _parquet(stream: BinaryIO, file: CorpusFile, column: str) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(stream)
        _check_column(table.schema_arrow, column, file)
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
            yield from map(_checked, batch.column(0).to_pylist())
    except UnicodeDecodeError as problem:
        raise TaskRefused(f"{file.name}: its column {column!r} holds text that is not UTF-8: {problem}") from problem
    except pyarrow.ArrowException as problem:
        raise TaskRefused(f"{file.name}: is not a complete Parquet file: {problem}; download it again and plan again") from problem


def _check_column(schema: Any, column: str, file: CorpusFile) -> None:  # noqa: ANN401 - pyarrow is not typed
    import pyarrow

    if column not in schema.names:
        raise TaskRefused(
            f"{file.name}: has no column {column!r}; its columns are {', '.join(map(repr, schema.names))}; set the source's `column`"
        )
    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)):
        raise TaskRefused(f"{file.name}: its column {column!r} holds {kind}, not text; set another `column` for the source")
