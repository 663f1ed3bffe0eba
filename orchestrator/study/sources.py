"""Fingerprints of sources: hashes of the content of their files, independent of names and locations.

The planner calls `fingerprint` for every reachable source. Hashing a corpus takes minutes, so the hash of a file is cached with its size
and version in an SQLite file; a changed file has another version and is hashed again.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.contract.files import fingerprint_of
from orchestrator.store.corpora import CorpusFile, expand, hash_unchanged

# Minimum age of a file whose hash is cached. A file that is rewritten within one tick of the file system's clock keeps its modification
# time; a tick is 10 ms on Linux, and 2 s on FAT and some NFS servers.
_MIN_AGE_SECONDS: Final = 3.0
# Reading is limited by disk or network, hashing by one core per thread; more threads are not faster.
_THREADS: Final = 16

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS hashes (name TEXT PRIMARY KEY, size INTEGER NOT NULL, version TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The content of a source. `bytes`: size of its files as stored, compressed or not."""

    fingerprint: str
    files: int
    bytes: int


def fingerprint(path: str, base: Path, cache: Path | None = None) -> SourceFacts:
    """Return the fingerprint of the source at `path`. A relative path starts at `base`; `cache`: folder, default `default_cache()`.

    Raises KeyMissing if there are no files to read, StoreUnavailable if the source is unreachable or changes while it is read.
    """
    files = expand(path, base)
    hashes = _hashes(files, cache or default_cache())
    triples = [(hashes[file.name], file.kind.reader, file.kind.language) for file in files]
    return SourceFacts(fingerprint_of(triples), len(files), sum(file.size for file in files))


def default_cache() -> Path:
    """Return the user's cache folder for this project (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaling-study"


def _hashes(files: list[CorpusFile], cache: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by name."""
    with _open_cache(cache) as table:
        known = _lookup(table, files)
        missing = [file for file in files if file.name not in known]
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            for file, sha256 in zip(missing, threads.map(hash_unchanged, missing), strict=True):
                known[file.name] = sha256
        now = time.time()
        cacheable = [file for file in missing if now - file.changed > _MIN_AGE_SECONDS]
        _save(table, [(file.name, file.size, file.version, known[file.name]) for file in cacheable])
    return known


@contextmanager
def _open_cache(cache: Path) -> Iterator[sqlite3.Connection]:
    """Open the table of hashes, in memory if the folder cannot be used: the cache must never cause a failure."""
    try:
        connection = _connect(cache)
    except (OSError, sqlite3.Error):
        connection = sqlite3.connect(":memory:")
        connection.execute(_TABLE)
    with closing(connection):
        yield connection


def _connect(cache: Path) -> sqlite3.Connection:
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "hashes.sqlite"
    try:
        return _connect_with_table(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        path.unlink()
        return _connect_with_table(path)


def _connect_with_table(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    try:
        connection.execute(_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _lookup(table: sqlite3.Connection, files: Iterable[CorpusFile]) -> dict[str, str]:
    query = "SELECT sha256 FROM hashes WHERE name = ? AND size = ? AND version = ?"
    known = {}
    with suppress(sqlite3.Error):  # damaged, or locked for 30 s: the files are hashed again
        for file in files:
            for (sha256,) in table.execute(query, (file.name, file.size, file.version)):
                known[file.name] = str(sha256)
    return known


def _save(table: sqlite3.Connection, rows: list[tuple[str, int, str, str]]) -> None:
    with suppress(sqlite3.Error), table:  # full or read-only: the next plan hashes again
        table.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", rows)
