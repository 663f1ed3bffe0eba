"""Reads buckets that are not ours: the corpora that sources point at.

`corpora` calls it for every path with a scheme. Unlike the store, which has one root, any number of buckets may be read here, by full
URL, and as streams: a file of a corpus may be larger than the disk.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from orchestrator.errors import KeyMissing, StoreUnavailable
from orchestrator.store.bucket import Backend, cause
from orchestrator.store.opening import cloud

# One request a piece: large enough that the delay of a request does not count, small enough for one stream a thread.
_BUFFER_BYTES: Final = 8 * 2**20


class Found(NamedTuple):
    """A file or object without its bytes. `version` and `changed`: see `corpora.CorpusFile`."""

    name: str
    size: int
    version: str
    changed: float


class Bucket:
    """A bucket, or this machine's disk for `file://`. Names are full URLs; nothing in them is unquoted."""

    def __init__(self, backend: Backend, root: str) -> None:
        self._backend = backend
        self._root = root

    @staticmethod
    def of(url: str) -> "Bucket":
        """The bucket that `url` is in. Raises StoreError for a scheme that we do not read."""
        parts = urlsplit(url)
        return _bucket(f"{parts.scheme}://{parts.netloc}/")

    def under(self, folder: str) -> Iterator[Found]:
        """All objects under the URL `folder`, in no order."""
        with self._told(folder):
            for batch in obstore.list(self._backend, self._key(folder) or None, chunk_size=1000):
                yield from map(self._found, batch)

    def look_up(self, name: str) -> Found:
        """The object of exactly this name. Raises KeyMissing."""
        with self._told(name):
            return self._found(obstore.head(self._backend, self._key(name)))

    def reader(self, name: str) -> io.BufferedReader:
        """The object as a seekable stream. Raises KeyMissing."""
        with self._told(name):
            return io.BufferedReader(_Stream(obstore.open_reader(self._backend, self._key(name), buffer_size=_BUFFER_BYTES), self, name))

    def _found(self, meta: "obstore.ObjectMeta") -> Found:
        changed = meta["last_modified"].timestamp()
        return Found(self._root + meta["path"], meta["size"], meta["e_tag"] or f"modified {changed}", changed)

    def _key(self, name: str) -> str:
        return name.removeprefix(self._root).strip("/")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise KeyMissing(f"{name}: there is no such object") from None
        except (BaseError, OSError, ValueError) as problem:
            raise StoreUnavailable(f"{name}: {cause(problem)}") from problem


class _Stream(io.RawIOBase):
    """A reader of obstore in the shape that gzip, pyarrow and io want."""

    def __init__(self, reader: Any, bucket: Bucket, name: str) -> None:  # noqa: ANN401 - the class has no importable name
        self._reader, self._bucket, self._name = reader, bucket, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as typeshed has it
        with self._bucket._told(self._name):
            chunk = self._reader.read(len(buffer))
        buffer[: len(chunk)] = bytes(chunk)
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


@lru_cache(maxsize=64)
def _bucket(root: str) -> Bucket:
    return Bucket(LocalStore() if root == "file:///" else cloud(root), root)
