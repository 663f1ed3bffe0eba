"""`Objects` on a folder, S3, GCS or Azure, through `obstore`.

`open_store` builds it. One code path serves a folder and a cloud; errors become ours, with a word about what to do next.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from orchestrator.errors import AlreadyThere, KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.objects import Stat

Backend: TypeAlias = LocalStore | S3Store | GCSStore | AzureStore

# A piece of a download: small enough to come within the client's timeout over a slow line.
_PIECE_BYTES: Final = 32 * 2**20

_FULL: Final = "its disk is full; free some space (`scaling-study store gc` shows what can go) and run again: nothing is lost"
_REFUSED: Final = "it refuses us; look at the rights of the folder"
# Numbers of the operating system's errors that a person can do something about -> what to do.
_CAUSES: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up; free some space and run again: nothing is lost",
    errno.EFBIG: "the file would be larger than this system allows; look at `ulimit -f`",
    errno.EROFS: "it is read-only; mount it writable, or choose another with --store",
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.ENOTDIR: "a file stands where a folder should be; look at the address of the store",
    errno.EIO: "its disk does not read or write any more (input/output error)",
}
# obstore hands the number on in its text only
_OS_ERROR: Final = re.compile(r"os error (\d+)")
# a listing's refusal comes as text alone; the last is where the library looks for credentials when the environment has none
_NO_RIGHTS: Final = ("403 Forbidden", "401 Unauthorized", "169.254.169.254")


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
        try:
            with self._errors("read", key):
                if self._root is not None:
                    shutil.copyfile(self._root / key, staged)
                else:
                    self._download(key, staged)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)

    def _download(self, key: str, staged: Path) -> None:
        size = obstore.head(self._backend, key)["size"]
        with staged.open("wb") as file:
            for start in range(0, size, _PIECE_BYTES):
                file.write(obstore.get_range(self._backend, key, start=start, end=min(size, start + _PIECE_BYTES)))

    def stat(self, key: str) -> Stat:
        with self._errors("look at", key):
            return _stat(obstore.head(self._backend, key))

    def list(self, prefix: str) -> Iterator[Stat]:
        with self._errors("list", prefix or "its objects"):
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
        except (FileNotFoundError, NotFoundError) as problem:
            if "NoSuchBucket" in str(problem):
                raise StoreUnavailable(f"the store {self._url} did not {action} {key}: {cause(problem)}") from problem
            raise KeyMissing(f"the store {self._url} has no {key}") from None
        except AlreadyExistsError:
            raise AlreadyThere(f"the store {self._url} has {key} already") from None
        except (InvalidPathError, ValueError) as problem:
            raise StoreError(f"{key!r} is not a key of a store") from problem
        except (BaseError, OSError) as problem:
            raise StoreUnavailable(f"the store {self._url} did not {action} {key}: {cause(problem)}") from problem


def _stat(meta: "obstore.ObjectMeta") -> Stat:
    return Stat(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")


def cause(problem: Exception) -> str:
    """What stands behind an error of the store, and what to do about it."""
    text = str(problem)
    found = _OS_ERROR.search(text)
    number = problem.errno if isinstance(problem, OSError) and problem.errno else int(found[1]) if found else 0
    if number in _CAUSES:
        return _CAUSES[number]
    if "NoSuchBucket" in text:
        return "there is no such bucket; make it, or look at the address"
    if isinstance(problem, (PermissionDeniedError, UnauthenticatedError)) or any(mark in text for mark in _NO_RIGHTS):
        return "it refuses us; look at the credentials in the environment (AWS_ACCESS_KEY_ID and so on) and their rights"
    return f"it is away or slow ({text.split('Debug source')[0].strip()[:300]}); try again when it answers"
