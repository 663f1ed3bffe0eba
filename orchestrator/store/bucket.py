"""`Objects` on a folder, S3, GCS or Azure, through `obstore`.

`open_store` builds it. Folders and clouds share one code path. Errors of the library are translated to `StoreError`, with advice.
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

from orchestrator.errors import Damaged, KeyExists, KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.folder import checked_key, irregularity, list_files, set_folder_aside
from orchestrator.store.objects import Stat

Backend: TypeAlias = LocalStore | S3Store | GCSStore | AzureStore

# Bytes per request of a download: small enough to finish within the client's timeout on a slow connection.
_PIECE_BYTES: Final = 32 * 2**20

_FULL: Final = "the disk is full; free some space (`scaling-study store gc` lists unneeded objects) and run again; no results are lost"
_REFUSED: Final = "permission denied; check the permissions of the folder"
# errno -> cause and advice, for errors that the user can fix
_CAUSES: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is exceeded; free some space and run again; no results are lost",
    errno.EFBIG: "the file would exceed the file size limit of this system; check `ulimit -f`",
    errno.EROFS: "the file system is read-only; mount it writable, or choose another store with --store",
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.ENOTDIR: "a file exists where a folder is expected; check the address of the store",
    errno.EISDIR: "a folder exists where a file is expected; move it out of the store",
    errno.ENAMETOOLONG: "a part of the path has more characters than the file system allows (often 255 bytes); choose a shorter name",
    errno.ELOOP: "a symbolic link of the path leads to itself; correct the link",
    errno.EIO: "the disk failed to read or write (input/output error)",
}
# obstore reports the errno only in the text of its errors
_OS_ERROR: Final = re.compile(r"os error (\d+)")
# A forbidden listing is reported only as text. 169.254.169.254: the metadata server asked when the environment has no credentials
_ACCESS_DENIED: Final = ("403 Forbidden", "401 Unauthorized", "169.254.169.254")


class BucketObjects:
    """Objects of a folder or bucket, accessed with obstore. `root` is the folder, or None for a cloud."""

    def __init__(self, backend: Backend, url: str, root: Path | None = None) -> None:
        self._backend = backend
        self._url = url
        self._root = root

    def get(self, key: str) -> bytes:
        with self._errors("read", key):
            self._check_is_file(key)
            if self._root is not None:
                # ten times faster than through the library, which matters for the records of a large plan
                return (self._root / checked_key(key)).read_bytes()
            return bytes(obstore.get(self._backend, key).bytes())

    def put(self, key: str, body: bytes) -> None:
        with self._errors("write", key):
            self._set_folder_aside(key)
            obstore.put(self._backend, key, body, mode="overwrite")

    def create(self, key: str, body: bytes) -> None:
        with self._errors("create", key):
            obstore.put(self._backend, key, body, mode="create", use_multipart=False)

    def put_file(self, key: str, path: Path) -> None:
        with self._errors("write", key):
            self._set_folder_aside(key)
            obstore.put(self._backend, key, path)

    def fetch(self, key: str, path: Path) -> None:
        staged = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._errors("read", key):
                self._check_is_file(key)
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
        with self._errors("stat", key):
            self._check_is_file(key)
            return _stat(obstore.head(self._backend, key))

    def list(self, prefix: str) -> Iterator[Stat]:
        with self._errors("list", prefix or "its objects"):
            if self._root is not None:
                yield from list_files(self._root, prefix.rstrip("/"))
                return
            for batch in obstore.list(self._backend, prefix or None, chunk_size=1000):
                yield from map(_stat, batch)

    def delete(self, key: str) -> None:
        try:
            with self._errors("delete", key):
                if not self._set_folder_aside(key):
                    obstore.delete(self._backend, key)
        except KeyMissing:
            pass

    def local_path(self, key: str) -> Path | None:
        return None if self._root is None else self._root / key

    def _check_is_file(self, key: str) -> None:
        """Raise Damaged if something else than a file lies in a folder store in place of the object."""
        found = irregularity(self._root, key) if self._root is not None else ""
        if found:
            raise Damaged(f"{key} in the store {self._url} is {found}; a file is expected, so it was replaced: move it out of the store")

    def _set_folder_aside(self, key: str) -> bool:
        """Move a folder in place of an object to damaged/: neither a write nor a deletion can replace it."""
        return self._root is not None and set_folder_aside(self._root, key)

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotFoundError) as problem:
            if "NoSuchBucket" in str(problem):
                raise StoreUnavailable(f"the store {self._url} could not {action} {key}: {cause(problem)}") from problem
            raise KeyMissing(f"the store {self._url} has no {key}") from None
        except AlreadyExistsError:
            raise KeyExists(f"the store {self._url} already has {key}") from None
        except (InvalidPathError, ValueError) as problem:
            raise StoreError(f"{key!r} is not a valid store key") from problem
        except (BaseError, OSError) as problem:
            raise StoreUnavailable(f"the store {self._url} could not {action} {key}: {cause(problem)}") from problem


def _stat(meta: "obstore.ObjectMeta") -> Stat:
    return Stat(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")


def cause(problem: Exception) -> str:
    """Return the cause of a storage error, and what to do about it."""
    text = str(problem)
    found = _OS_ERROR.search(text)
    number = problem.errno if isinstance(problem, OSError) and problem.errno else int(found[1]) if found else 0
    if number in _CAUSES:
        return _CAUSES[number]
    if "NoSuchBucket" in text:
        return "the bucket does not exist; create it, or check the address"
    if isinstance(problem, (PermissionDeniedError, UnauthenticatedError)) or any(mark in text for mark in _ACCESS_DENIED):
        return "access denied; check the credentials in the environment (such as AWS_ACCESS_KEY_ID) and their permissions"
    return f"unreachable or timed out ({text.split('Debug source')[0].strip()[:300]}); try again later"
