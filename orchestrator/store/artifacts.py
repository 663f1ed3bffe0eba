"""Files in the store whose size and hash somebody promised, and the check of that promise at every read.

Trainer and evaluation write them and name them in manifests and records; whoever reads one gets bytes that are right, or Damaged.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged
from orchestrator.store.objects import Store

STALE_SECONDS: Final = 24 * 3600
"""A download to which nothing has been added for so long is nobody's."""

# (file, size, mtime, inode) -> SHA-256: a file is hashed once a process
_hashed: dict[tuple[str, int, int, int], str] = {}


def write_bytes(store: Store, key: str, body: bytes) -> Artifact:
    """Write `body` under `key`, which must be in an attempt's own folder."""
    store.objects.put(key, body)
    return Artifact(key=key, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def write_file(store: Store, key: str, path: Path) -> Artifact:
    """Write a local file under `key`. It must not change meanwhile."""
    artifact = Artifact(key=key, bytes=path.stat().st_size, sha256=hash_file(path))
    store.objects.put_file(key, path)
    return artifact


def read_bytes(store: Store, artifact: Artifact) -> bytes:
    """The bytes that were promised. Raises Damaged, KeyMissing."""
    body = store.objects.get(artifact.key)
    _check(artifact, len(body), lambda: hashlib.sha256(body).hexdigest())
    return body


def fetch(store: Store, artifact: Artifact, cache: Path) -> Path:
    """A local file with the bytes that were promised: in place for a folder, else downloaded to `cache`. Raises Damaged, KeyMissing."""
    local = store.objects.local_path(artifact.key)
    if local is None:
        return _cached(store, artifact, cache)
    _check_file(store, artifact, local)
    return local


def check(store: Store, artifact: Artifact, scratch: Path) -> None:
    """Read the artifact and leave nothing behind. `scratch`: a folder with room for it. Raises Damaged, KeyMissing."""
    local = store.objects.local_path(artifact.key)
    if local is not None:
        _check_file(store, artifact, local)
        return
    copy = scratch / artifact.sha256
    store.objects.fetch(artifact.key, copy)
    try:
        _check(artifact, copy.stat().st_size, lambda: hash_file(copy))
    finally:
        copy.unlink()


def _check_file(store: Store, artifact: Artifact, path: Path) -> None:
    if not path.exists():
        store.objects.stat(artifact.key)  # raises KeyMissing
    _check(artifact, path.stat().st_size, lambda: hash_once(path))


def _cached(store: Store, artifact: Artifact, cache: Path) -> Path:
    path = cache / artifact.sha256[:2] / artifact.sha256
    if path.exists() and path.stat().st_size == artifact.bytes and hash_once(path) == artifact.sha256:
        return path
    # one content may be fetched twice at once: by two threads, or by two pods, of which each is process 1
    _remove_halves(path)
    staged = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        store.objects.fetch(artifact.key, staged)
        _check(artifact, staged.stat().st_size, lambda: hash_file(staged))
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return path


def _remove_halves(path: Path) -> None:
    """What a process that was killed in mid-download left beside it: nobody else clears a volume that pods share."""
    for left in path.parent.glob(f"{path.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()


def _check(artifact: Artifact, size: int, hashed: Callable[[], str]) -> None:
    if size != artifact.bytes:
        raise Damaged(f"{artifact.key} has {size:,} bytes, and {artifact.bytes:,} were written: it is cut or has been replaced")
    found = hashed()
    if found != artifact.sha256:
        raise Damaged(
            f"{artifact.key} has changed since it was written: its SHA-256 is {found[:12]}..., {artifact.sha256[:12]}... was written"
        )


def hash_once(path: Path) -> str:
    """SHA-256 of a file, from memory when this process has hashed it and it has not changed."""
    status = path.stat()
    mark = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    if mark not in _hashed:
        _hashed[mark] = hash_file(path)
    return _hashed[mark]


def hash_file(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
