"""A folder store writes atomically even if killed, and reports file system errors clearly."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.store import open_store
from orchestrator.store.maintenance import gc
from tests.store.samples import Clock

# Writes an object larger than the limit of file sizes: the kernel kills the process in the middle of the write
WRITE = """
import resource, signal, sys
from orchestrator.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
objects = open_store(sys.argv[1]).objects
body = b"x" * 200_000
objects.create("a/big", body) if sys.argv[2] == "create" else objects.put("a/big", body)
"""


def killed_while_writing(root: Path, how: str) -> None:
    done = subprocess.run([sys.executable, "-c", WRITE, str(root), how], check=False)
    assert done.returncode == -signal.SIGXFSZ
    assert any((root / "a").iterdir()), "the write had begun"


@pytest.mark.parametrize("how", ["create", "put"])
def test_killed_write_leaves_no_object(tmp_path: Path, how: str) -> None:
    store = open_store(str(tmp_path))
    killed_while_writing(tmp_path, how)
    assert list(store.objects.list("")) == []
    store.objects.create("a/big", b"the next one")
    assert store.objects.get("a/big") == b"the next one"


def test_gc_removes_incomplete_writes_older_than_a_day(tmp_path: Path) -> None:
    killed_while_writing(tmp_path, "create")
    clock = Clock()
    store = open_store(str(tmp_path), clock=clock)
    staged = next((tmp_path / "a").iterdir())
    os.utime(staged, (clock().timestamp(), clock().timestamp()))
    assert gc(store, dry_run=False) == []
    clock.advance(2 * 86_400)
    assert [removal.key for removal in gc(store, dry_run=True)] == [f"a/{staged.name}"]
    assert staged.exists()
    gc(store, dry_run=False)
    assert not staged.exists()


def test_relative_path_is_resolved_when_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here/store")
    monkeypatch.chdir("/")
    store.objects.put("k", b"x")
    assert (tmp_path / "here" / "store" / "k").read_bytes() == b"x"


def test_file_url_and_path_open_the_same_folder(tmp_path: Path) -> None:
    open_store(str(tmp_path / "a store")).objects.put("k", b"x")
    assert open_store(f"file://{tmp_path}/a%20store").objects.get("k") == b"x"


def test_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="a file exists where a folder is expected"):
        open_store(str(tmp_path / "file" / "store"))


def test_file_size_limit_is_reported_and_leaves_no_object(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from orchestrator.errors import StoreUnavailable
from orchestrator.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = open_store(sys.argv[1])
store.objects.put("small", b"x")
try:
    store.objects.put("big", b"x" * 200_000)
except StoreUnavailable as problem:
    print(problem, [stat.key for stat in store.objects.list("")])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "ulimit -f" in done.stdout
    assert "['small']" in done.stdout


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte. Only root can mount it; without root, the table of causes and injected faults cover these errors."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_reported_and_keeps_existing_objects(tiny_disk: Path) -> None:
    store = open_store(str(tiny_disk))
    store.objects.put("a", b"x" * 500_000)
    with pytest.raises(StoreUnavailable, match="could not write b: the disk is full; free some space"):
        store.objects.put("b", b"x" * 900_000)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        store.objects.put("a", b"y" * 900_000)
    assert store.objects.get("a") == b"x" * 500_000
    assert [path.name for path in tiny_disk.iterdir()] == ["a"]


def test_read_only_disk_is_reported_and_readable(tiny_disk: Path) -> None:
    store = open_store(str(tiny_disk))
    store.objects.put("a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    for write in (store.objects.put, store.objects.create):
        with pytest.raises(StoreUnavailable, match="the file system is read-only; mount it writable, or choose another store with --store"):
            write("b", b"x")
    assert open_store(str(tiny_disk)).objects.get("a") == b"x"
