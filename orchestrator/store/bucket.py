"""`Objects` on a folder, S3, GCS or Azure: the only module with `obstore`.

`open_store` builds it. One code path serves a folder and a cloud; errors become ours, with a word about what to do next.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from orchestrator.errors import AlreadyThere, KeyMissing, StoreUnavailable
from orchestrator.store.objects import Stat

Backend: TypeAlias = LocalStore | S3Store | GCSStore | AzureStore

# A piece of a download: small enough to come within the client's timeout over a slow line.
_PIECE_BYTES: Final = 32 * 2**20

# Operating system's words in obstore's messages (Linux, macOS) -> what the user is told.
_CAUSES: Final = (
    ("os error 28", "its disk is full; free some space, or `scaling-study store gc`, and run again: nothing is lost"),
    ("StorageFull", "its disk is full; free some space, or `scaling-study store gc`, and run again: nothing is lost"),
    ("os error 122", "the disk quota is used up; free some space and run again: nothing is lost"),
    ("os error 27", "the file would be larger than this system allows (ulimit -f)"),
    ("os error 30", "it is read-only; mount it writable, or choose another with --store"),
    ("os error 13", "it refuses us; look at the rights of the folder"),
    ("os error 1)", "it refuses us; look at the rights of the folder"),
)


class BucketObjects:
    """A folder or a bucket behind obstore. `root` is the folder, or None for a cloud."""

    def __init__(self, backend: Backend, url: str, root: Path | None = None) -> None:
        self._backend = backend
        self._url = url
        self._root = root

    def get(self, key: str) -> bytes:
        with self._errors("read", key):
            return bytes(obstore.get(self._backend, key).bytes())

    def put(self, key: str, body: bytes) -> None:
        with self._errors("write", key):
            obstore.put(self._backend, key, body, mode="overwrite")

    def create(self, key: str, body: bytes) -> None:
        with self._errors("create", key):
            obstore.put(self._backend, key, body, mode="create", use_multipart=False)

    def put_file(self, key: str, path: Path) -> None:
        with self._errors("write", key):
            obstore.put(self._backend, key, path)

    def fetch(self, key: str, path: Path) -> None:
        staged = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("read", key):
            if self._root is not None:
                shutil.copyfile(self._root / key, staged)
            else:
                self._download(key, staged)
        staged.replace(path)

    def _download(self, key: str, staged: Path) -> None:
        size = obstore.head(self._backend, key)["size"]
        with staged.open("wb") as file:
            for start in range(0, size, _PIECE_BYTES):
                file.write(obstore.get_range(self._backend, key, start=start, end=min(size, start + _PIECE_BYTES)))

    def stat(self, key: str) -> Stat:
        with self._errors("look at", key):
            return _stat(obstore.head(self._backend, key))

    def list(self, prefix: str) -> Iterator[Stat]:
        with self._errors("list", prefix):
            for batch in obstore.list(self._backend, prefix or None, chunk_size=1000):
                yield from map(_stat, batch)

    def delete(self, key: str) -> None:
        try:
            with self._errors("delete", key):
                obstore.delete(self._backend, key)
        except KeyMissing:
            pass

    def local_path(self, key: str) -> Path | None:
        return None if self._root is None else self._root / key

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotFoundError):
            raise KeyMissing(f"the store {self._url} has no {key}") from None
        except AlreadyExistsError:
            raise AlreadyThere(f"the store {self._url} has {key} already") from None
        except (BaseError, OSError, ValueError) as problem:
            raise StoreUnavailable(f"the store {self._url} did not {action} {key}: {cause(problem)}") from problem


def _stat(meta: "obstore.ObjectMeta") -> Stat:
    return Stat(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")


def cause(problem: Exception) -> str:
    """What stands behind an error of the store, and what to do about it."""
    text = str(problem)
    for mark, meaning in _CAUSES:
        if mark in f"{text} {problem!r}":
            return meaning
    if isinstance(problem, (PermissionDeniedError, UnauthenticatedError)):
        return "it refuses us; look at the credentials in the environment (AWS_ACCESS_KEY_ID and so on) and their rights"
    return f"it is away or slow ({text.split('Debug source')[0].strip()[:300]}); try again when it answers"
