"""Files of sources in a real bucket: found, hashed and read as on a disk."""

import gzip
import json
import os
import time
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
    """The same files as a URL: in the S3 server, else on the disk by way of the same library."""
    if not url.startswith("s3://"):
        return f"file://{folder}"
    upload(open_store(url).objects, folder)
    return f"{url}/corpus"


@pytest.mark.parametrize("pattern", ["", "/", "/*", "/**", "/**/*.py", "/deep/*", "/deep/b c.parquet", "/a.*", "/deep/[bü]*"])
def test_a_bucket_holds_what_a_folder_holds(pattern: str, place: str, folder: Path, tmp_path: Path) -> None:
    here = fingerprint(f"{folder}{pattern}", tmp_path, tmp_path / "cache")
    assert fingerprint(f"{place}{pattern}", tmp_path, tmp_path / "cache") == here
    assert here.files <= 3


def by_name(place: str, name: str) -> CorpusFile:
    return next(file for file in expand(place, Path("/")) if file.name.endswith(name))


def test_files_are_streams(place: str, folder: Path) -> None:
    with opened(by_name(place, "a.jsonl.gz")) as stream, gzip.open(stream) as lines:
        assert [json.loads(line)["text"] for line in lines] == [f"document {number}" for number in range(50_000)]
    with opened(by_name(place, "b c.parquet")) as stream:
        assert pyarrow.parquet.ParquetFile(stream).read().column("text").to_pylist() == ["one", "two"]
    with opened(by_name(place, "a.jsonl.gz")) as stream:
        assert stream.read(10) == (folder / "a.jsonl.gz").read_bytes()[:10]
        assert stream.tell() == 10


def test_a_file_that_two_paths_lead_to_counts_once(place: str) -> None:
    names = [file.name for file in expand_all([place, f"{place}/deep/*", f"{place}/a.jsonl.gz"], Path("/"))]
    assert names == sorted(set(names))
    assert len(names) == 3


def test_a_file_that_is_gone_is_missing(folder: Path) -> None:
    file = by_name(f"file://{folder}", "a.jsonl.gz")
    (folder / "a.jsonl.gz").unlink()
    for act in (lambda: hash_of(file, len), lambda: check_unchanged(file)):  # type: ignore[arg-type]
        with pytest.raises(KeyMissing, match=r"a\.jsonl\.gz"):
            act()


def test_a_file_that_hides_its_change_has_another_version(folder: Path) -> None:
    """What `cp -p` and `rsync -t` do: other bytes, the same size and time."""
    path = folder / "deep/ünïcode.py"
    before, status = by_name(str(folder), path.name), path.stat()
    time.sleep(0.05)  # more than a tick of the clock that stamps files
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = by_name(str(folder), path.name)
    assert after.size == before.size
    assert after.version != before.version
    with pytest.raises(StoreUnavailable, match="changed while it was read"):
        check_unchanged(before)
