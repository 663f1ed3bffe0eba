"""Files of sources are found, hashed and read in a bucket as on a disk."""

import gzip
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from orchestrator.errors import KeyMissing, StoreUnavailable
from orchestrator.store import open_store
from orchestrator.store.corpora import CorpusFile, check_unchanged, expand, expand_all, hash_of, opened
from orchestrator.store.objects import Objects
from orchestrator.study.sources import fingerprint

NAMES = ["a.jsonl.gz", "deep/b c.parquet", "deep/ünïcode.py", ".hidden.py", "logo.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files on this machine's disk."""
    lines = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(50_000))
    (tmp_path / "corpus/deep").mkdir(parents=True)
    (tmp_path / "corpus/a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 1))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "corpus/deep/b c.parquet")
    for name in NAMES[2:]:
        (tmp_path / "corpus" / name).write_text(name)
    return tmp_path / "corpus"


def upload(objects: Objects, folder: Path) -> None:
    for name in NAMES:
        objects.put_file(f"corpus/{name}", folder / name)


@pytest.fixture
def place(url: str, folder: Path) -> str:
    """The URL of the same files: on the S3 server, or on the disk through the same library."""
    if not url.startswith("s3://"):
        return f"file://{folder}"
    upload(open_store(url).objects, folder)
    return f"{url}/corpus"


@pytest.mark.parametrize("pattern", ["", "/", "/*", "/**", "/**/*.py", "/deep/*", "/deep/b c.parquet", "/a.*", "/deep/[bü]*"])
def test_bucket_and_folder_have_equal_fingerprints(pattern: str, place: str, folder: Path, tmp_path: Path) -> None:
    here = fingerprint(f"{folder}{pattern}", tmp_path, tmp_path / "cache")
    assert fingerprint(f"{place}{pattern}", tmp_path, tmp_path / "cache") == here
    assert here.files <= 3


def by_name(place: str, name: str) -> CorpusFile:
    return next(file for file in expand(place, Path("/")) if file.name.endswith(name))


def test_files_open_as_seekable_streams(place: str, folder: Path) -> None:
    with opened(by_name(place, "a.jsonl.gz")) as stream, gzip.open(stream) as lines:
        assert [json.loads(line)["text"] for line in lines] == [f"document {number}" for number in range(50_000)]
    with opened(by_name(place, "b c.parquet")) as stream:
        assert pyarrow.parquet.ParquetFile(stream).read().column("text").to_pylist() == ["one", "two"]
    with opened(by_name(place, "a.jsonl.gz")) as stream:
        assert stream.read(10) == (folder / "a.jsonl.gz").read_bytes()[:10]
        assert stream.tell() == 10


def test_file_matched_by_two_paths_is_listed_once(place: str) -> None:
    names = [file.name for file in expand_all([place, f"{place}/deep/*", f"{place}/a.jsonl.gz"], Path("/"))]
    assert names == sorted(set(names))
    assert len(names) == 3


def test_deleted_file_raises_key_missing(folder: Path) -> None:
    file = by_name(f"file://{folder}", "a.jsonl.gz")
    (folder / "a.jsonl.gz").unlink()
    for act in (lambda: hash_of(file, len), lambda: check_unchanged(file)):  # type: ignore[arg-type]
        with pytest.raises(KeyMissing, match=r"a\.jsonl\.gz"):
            act()


def test_change_with_restored_mtime_changes_the_version(folder: Path) -> None:
    """As with `cp -p` and `rsync -t`: other bytes, but the same size and mtime."""
    path = folder / "deep/ünïcode.py"
    before, status = by_name(str(folder), path.name), path.stat()
    other = path.read_bytes()[::-1]
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # until the clock of the file system ticks
        path.write_bytes(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = by_name(str(folder), path.name)
    assert after.size == before.size
    assert after.version != before.version
    with pytest.raises(StoreUnavailable, match="changed while it was read"):
        check_unchanged(before)
