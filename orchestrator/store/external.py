"""Read-only access to external buckets: the corpora of sources.

`corpora` calls it for every path with a scheme. Unlike the store, which has one root, it reads any number of buckets, by full URL and as
streams: a file of a corpus may be larger than the disk.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from orchestrator.errors import KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.bucket import Backend, cause
from orchestrator.store.opening import cloud

_DISK: Final = "file:///"
# Bytes per request: large enough to hide the latency of a request, small enough for one buffer per thread.
_BUFFER_BYTES: Final = 8 * 2**20


class ExternalStat(NamedTuple):
    """Metadata of an external file or object. `version` and `changed`: see `corpora.CorpusFile`."""

    name: str
    size: int
    version: str
    changed: float


class Bucket:
    """An external bucket, or this machine's disk for `file://`. Names are full URLs, without percent-decoding."""

    def __init__(self, backend: Backend, root: str) -> None:
        self._backend = backend
        self._root = root

    @staticmethod
    def of(url: str) -> "Bucket":
        """Return the bucket of `url`. Raises StoreError for an unsupported scheme or an invalid URL."""
        try:
            parts = urlsplit(url)
        except ValueError as problem:
            raise StoreError(f"{url}: not a valid URL: {problem}") from problem
        return _bucket(f"{parts.scheme}://{parts.netloc}/")

    def list(self, folder: str) -> Iterator[ExternalStat]:
        """Yield the metadata of all objects under the URL `folder`, in no particular order."""
        with self._store_errors(folder):
            for batch in obstore.list(self._backend, self._key(folder) or None, chunk_size=1000):
                yield from map(self._stat, batch)

    def stat(self, name: str) -> ExternalStat:
        """Return the metadata of one object. Raises KeyMissing."""
        with self._store_errors(name):
            self._check_is_file(name)
            return self._stat(obstore.head(self._backend, self._key(name)))

    def reader(self, name: str) -> io.BufferedReader:
        """Open an object as a seekable stream. Raises KeyMissing."""
        with self._store_errors(name):
            self._check_is_file(name)
            return io.BufferedReader(_Stream(obstore.open_reader(self._backend, self._key(name), buffer_size=_BUFFER_BYTES), self, name))

    def _check_is_file(self, name: str) -> None:
        """Raise KeyMissing for a named pipe or device of this machine's disk: obstore would wait for its writer."""
        if self._root == _DISK and (path := Path("/", self._key(name))).exists() and not (path.is_file() or path.is_dir()):
            raise KeyMissing(f"{name}: a pipe or a device, not a file")

    def _stat(self, meta: "obstore.ObjectMeta") -> ExternalStat:
        changed = meta["last_modified"].timestamp()
        return ExternalStat(self._root + meta["path"], meta["size"], meta["e_tag"] or f"modified {changed}", changed)

    def _key(self, name: str) -> str:
        return name.removeprefix(self._root).strip("/")

    @contextmanager
    def _store_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise KeyMissing(f"{name}: no such object") from None
        except (BaseError, OSError, ValueError) as problem:
            raise StoreUnavailable(f"{name}: {cause(problem)}") from problem


class _Stream(io.RawIOBase):
    """An obstore reader as `io.RawIOBase`, as gzip, pyarrow and io require."""

    def __init__(self, reader: Any, bucket: Bucket, name: str) -> None:  # noqa: ANN401 - obstore does not export the class
        self._reader, self._bucket, self._name = reader, bucket, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as in typeshed
        with self._bucket._store_errors(self._name):
            chunk = self._reader.read(len(buffer))
        buffer[: len(chunk)] = bytes(chunk)
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


@lru_cache(maxsize=64)
def _bucket(root: str) -> Bucket:
    return Bucket(LocalStore() if root == _DISK else cloud(root), root)
