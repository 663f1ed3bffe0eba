"""Artifacts: files in the store whose size and SHA-256 are recorded, and checked at every read.

The trainer writes them and lists them in manifests and records. Reading one returns the original bytes or raises Damaged.
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
"""Age in seconds after which an incomplete download is considered abandoned."""

# (file, size, mtime, inode) -> SHA-256; each process hashes a file once
_hashed: dict[tuple[str, int, int, int], str] = {}


def write_bytes(store: Store, key: str, body: bytes) -> Artifact:
    """Write `body` at `key`, which must be in the attempt's own folder, and return its artifact."""
    store.objects.put(key, body)
    return describe(key, body)


def describe(key: str, body: bytes) -> Artifact:
    """Return the artifact of an object with this content."""
    return Artifact(key=key, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def write_file(store: Store, key: str, path: Path) -> Artifact:
    """Upload a local file to `key` and return its artifact. The file must not change during the upload."""
    artifact = Artifact(key=key, bytes=path.stat().st_size, sha256=hash_file(path))
    store.objects.put_file(key, path)
    return artifact


def read_bytes(store: Store, artifact: Artifact) -> bytes:
    """Return the artifact's bytes, checked against its SHA-256. Raises Damaged, KeyMissing."""
    body = store.objects.get(artifact.key)
    _check(artifact, len(body), lambda: hashlib.sha256(body).hexdigest())
    return body


def fetch(store: Store, artifact: Artifact, cache: Path) -> Path:
    """Return a local file with the artifact's checked bytes.

    A folder store returns its own file; other stores download to `cache`. Raises Damaged, KeyMissing.
    """
    local = store.objects.local_path(artifact.key)
    if local is None:
        return _cached(store, artifact, cache)
    _check_file(store, artifact, local)
    return local


def check(store: Store, artifact: Artifact, scratch: Path) -> None:
    """Check the artifact without keeping a copy. `scratch`: a folder with enough free space. Raises Damaged, KeyMissing."""
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
    store.objects.stat(artifact.key)  # raises KeyMissing, and Damaged for a folder or a link in its place
    _check(artifact, path.stat().st_size, lambda: hash_once(path))


def _cached(store: Store, artifact: Artifact, cache: Path) -> Path:
    path = cache / artifact.sha256[:2] / artifact.sha256
    if path.exists() and path.stat().st_size == artifact.bytes and hash_once(path) == artifact.sha256:
        return path
    # Two threads or pods may download the same content at once. Each pod's process has pid 1, so the pid is not unique
    _remove_abandoned(path)
    staged = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        store.objects.fetch(artifact.key, staged)
        _check(artifact, staged.stat().st_size, lambda: hash_file(staged))
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return path


def _remove_abandoned(path: Path) -> None:
    """Remove incomplete downloads of killed processes; no other code cleans a cache volume that pods share."""
    for left in path.parent.glob(f"{path.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()


def _check(artifact: Artifact, size: int, hashed: Callable[[], str]) -> None:
    if size != artifact.bytes:
        raise Damaged(f"{artifact.key} has {size:,} bytes, but {artifact.bytes:,} were written: it was truncated or replaced")
    found = hashed()
    if found != artifact.sha256:
        raise Damaged(
            f"{artifact.key} has changed since it was written: its SHA-256 is {found[:12]}..., expected {artifact.sha256[:12]}..."
        )


def hash_once(path: Path) -> str:
    """Return the SHA-256 of a file; cached in this process until the file changes."""
    status = path.stat()
    mark = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    if mark not in _hashed:
        _hashed[mark] = hash_file(path)
    return _hashed[mark]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
