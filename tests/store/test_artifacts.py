"""Reading an artifact returns the bytes written, or raises an error."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged, KeyMissing, StoreError
from orchestrator.store import Store
from orchestrator.store import artifacts as subject
from orchestrator.store.memory import InMemoryObjects, in_memory_store
from tests.store.samples import overwrite

BODY = bytes(range(256)) * 40
CHANGES = [
    ("flip", "has changed since it was written: its SHA-256 is"),
    ("cut", "has 5,120 bytes, but 10,240 were written"),
    ("empty", "has 0 bytes"),
]


def test_bytes_and_files_give_equal_artifacts(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    one, two = subject.write_bytes(store, "a", BODY), subject.write_file(store, "b", tmp_path / "file")
    assert (one.bytes, one.sha256) == (two.bytes, two.sha256) == (10_240, one.sha256)
    assert subject.read_bytes(store, one) == subject.read_bytes(store, two) == BODY


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_every_read_detects_damage(store: Store, cache: Path, change: str, message: str) -> None:
    artifact = subject.write_bytes(store, "a/shard.bin", BODY)
    overwrite(store, "a/shard.bin", change)
    for read in (
        lambda: subject.read_bytes(store, artifact),
        lambda: subject.fetch(store, artifact, cache),
        lambda: subject.check(store, artifact, cache),
    ):
        with pytest.raises(Damaged, match=f"a/shard.bin {message}"):
            read()
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_missing_artifact_raises_key_missing(store: Store, cache: Path) -> None:
    artifact = Artifact(key="a", bytes=1, sha256="0" * 64)
    for read in (subject.fetch, subject.check):
        with pytest.raises(KeyMissing):
            read(store, artifact, cache)


def test_fetch_returns_a_complete_file(store: Store, cache: Path) -> None:
    artifact = subject.write_bytes(store, "a", BODY)
    path = subject.fetch(store, artifact, cache)
    assert path.read_bytes() == BODY
    assert subject.fetch(store, artifact, cache) == path


def test_folder_store_returns_its_own_file(store: Store, cache: Path) -> None:
    artifact = subject.write_bytes(store, "a", BODY)
    if store.objects.local_path("a") is None:
        pytest.skip("not a folder")
    assert subject.fetch(store, artifact, cache) == store.objects.local_path("a")
    assert not cache.exists()


def test_cached_content_is_not_downloaded_again(cache: Path) -> None:
    store = in_memory_store()
    assert isinstance(store.objects, InMemoryObjects)
    artifact = subject.write_bytes(store, "a", BODY)
    path = subject.fetch(store, artifact, cache)
    subject.fetch(store, artifact.model_copy(update={"key": "another key of the same bytes"}), cache)
    assert [name for name, _ in store.objects.log] == ["put", "fetch"]
    path.write_bytes(BODY[:-1] + b"!")
    assert subject.fetch(store, artifact, cache).read_bytes() == BODY
    assert [name for name, _ in store.objects.log] == ["put", "fetch", "fetch"]


def test_cached_copy_is_used_if_the_store_is_damaged(cache: Path) -> None:
    store = in_memory_store()
    artifact = subject.write_bytes(store, "a", BODY)
    subject.fetch(store, artifact, cache)
    overwrite(store, "a", "flip")
    assert subject.fetch(store, artifact, cache).read_bytes() == BODY


def test_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    first = subject.hash_once(path)
    assert subject.hash_once(path) == first == subject.hash_file(path)
    path.write_bytes(b"three")
    assert subject.hash_once(path) == subject.hash_file(path) != first


def test_equal_content_can_be_fetched_concurrently(tmp_path: Path) -> None:
    """Shards with the same content are fetched by concurrent threads, which must not use each other's incomplete files."""
    store = in_memory_store()
    same = [subject.write_bytes(store, f"shards/{number}", b"x" * 100_000) for number in range(8)]
    for turn in range(20):
        with ThreadPoolExecutor(8) as threads:
            paths = set(threads.map(lambda artifact, cache=tmp_path / str(turn): subject.fetch(store, artifact, cache), same))
        assert [path.stat().st_size for path in paths] == [100_000]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_incomplete_downloads_are_removed_from_the_cache(cache: Path, damage: str) -> None:
    store = in_memory_store()
    artifact = subject.write_bytes(store, "k", b"0123")
    folder = cache / artifact.sha256[:2]
    folder.mkdir(parents=True)
    for age, name in ((2 * subject.STALE_SECONDS, "old"), (60, "young")):
        abandoned = folder / f"{artifact.sha256}.{name}"
        abandoned.write_bytes(b"01")
        os.utime(abandoned, (time.time() - age,) * 2)
    if damage == "missing":
        store.objects.delete("k")
    else:
        store.objects.put("k", b"0124")
    with pytest.raises(StoreError):
        subject.fetch(store, artifact, cache)
    assert [path.suffix for path in folder.iterdir()] == [".young"], "a recent download may belong to another pod"
