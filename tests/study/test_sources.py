"""Fingerprints of sources depend on content alone, and the cache never gives a wrong hash."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.contract.files import fingerprint_of
from orchestrator.errors import KeyMissing, StoreError
from orchestrator.study.sources import SourceFacts, default_cache, fingerprint

OLD_FILES = Path(json.__file__).parent
"""Installed long enough ago for their hashes to be cached."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name, content in {"a.py": "one = 1\n", "deep/er/b.py": "two = 2\n", "ünïcode 日本.txt": "three"}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    return tree


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_names_and_locations_do_not_change_the_fingerprint(tree: Path, cache: Path, tmp_path: Path) -> None:
    before = fingerprint("tree", tmp_path, cache)
    assert (before.files, before.bytes) == (3, 21)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tree, moved)
    (moved / "a.py").rename(moved / "z.py")
    assert fingerprint(str(moved), Path("/"), cache) == before


def test_ignored_files_do_not_change_the_fingerprint(tree: Path, cache: Path, tmp_path: Path) -> None:
    before = fingerprint("tree", tmp_path, cache)
    for name in ("logo.png", ".hidden.py", ".git/config.py", "a.pyc"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("not read")
    (tree / "broken link.py").symlink_to(tree / "nowhere")
    assert fingerprint("tree", tmp_path, cache) == before


@pytest.mark.parametrize("name", ["a.py", "deep/er/b.py", "ünïcode 日本.txt"])
def test_every_byte_changes_the_fingerprint(name: str, tree: Path, cache: Path, tmp_path: Path) -> None:
    before = fingerprint("tree", tmp_path, cache)
    content = (tree / name).read_bytes()
    (tree / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert fingerprint("tree", tmp_path, cache).fingerprint != before.fingerprint


def test_the_language_changes_the_fingerprint(tree: Path, cache: Path, tmp_path: Path) -> None:
    before = fingerprint("tree", tmp_path, cache)
    (tree / "a.py").rename(tree / "a.rb")
    assert fingerprint("tree", tmp_path, cache).fingerprint != before.fingerprint


def test_change_with_the_same_time_and_size_is_detected(tree: Path, cache: Path, tmp_path: Path) -> None:
    """`cp -p`, `rsync -t` and a second write within one tick of the clock keep time and size."""
    before = fingerprint("tree", tmp_path, cache)
    for content in ("one = 7\n", "one = 8\n"):
        status = (tree / "a.py").stat()
        (tree / "a.py").write_text(content)
        os.utime(tree / "a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
        after = fingerprint("tree", tmp_path, cache)
        assert after.fingerprint != before.fingerprint
        before = after


def rows(cache: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(cache / "hashes.sqlite") as table:
        found = table.execute("SELECT name, sha256 FROM hashes ORDER BY name").fetchall()
    table.close()
    return found


def replace_hashes(cache: Path) -> None:
    """Replace the hashes in the cache, so that their use is visible in the fingerprint."""
    table = sqlite3.connect(cache / "hashes.sqlite")
    with table:
        table.execute("UPDATE hashes SET sha256 = 'from the cache'")
    table.close()


def test_unchanged_file_is_hashed_once(cache: Path) -> None:
    first = fingerprint(str(OLD_FILES), Path("/"), cache)
    assert len(rows(cache)) == first.files
    replace_hashes(cache)
    again = fingerprint(str(OLD_FILES), Path("/"), cache)
    assert again.fingerprint == fingerprint_of([("from the cache", "code", "python")] * first.files)


def test_file_with_another_time_or_size_is_hashed_again(cache: Path) -> None:
    first = fingerprint(str(OLD_FILES), Path("/"), cache)
    table = sqlite3.connect(cache / "hashes.sqlite")
    with table:
        table.execute("UPDATE hashes SET sha256 = 'wrong', size = size + 1 WHERE name LIKE '%decoder.py'")
        table.execute("UPDATE hashes SET sha256 = 'wrong', version = '0:0:0:0' WHERE name LIKE '%encoder.py'")
    table.close()
    assert fingerprint(str(OLD_FILES), Path("/"), cache) == first


def test_hash_of_a_recently_written_file_is_not_cached(tree: Path, cache: Path) -> None:
    fingerprint(str(tree), Path("/"), cache)
    assert rows(cache) == []


@pytest.mark.parametrize("damage", ["broken", "a file in its place", "a folder in its place"])
def test_unusable_cache_is_ignored(damage: str, cache: Path) -> None:
    expected = fingerprint(str(OLD_FILES), Path("/"), cache)
    shutil.rmtree(cache)
    if damage == "a file in its place":
        cache.write_text("not a folder")
    elif damage == "a folder in its place":
        (cache / "hashes.sqlite").mkdir(parents=True)
    else:
        cache.mkdir()
        (cache / "hashes.sqlite").write_bytes(b"this was a database once" * 100)
    assert fingerprint(str(OLD_FILES), Path("/"), cache) == expected
    assert fingerprint(str(OLD_FILES), Path("/"), cache) == expected


def test_two_processes_can_share_the_cache(cache: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from orchestrator.study.sources import fingerprint\n"
        "for _ in range(5): found = fingerprint(sys.argv[1], Path('/'), Path(sys.argv[2])).fingerprint\n"
        "print(found)"
    )
    command = [sys.executable, "-c", program, str(OLD_FILES), str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [process.communicate()[0].strip() for process in running]
    assert found == [fingerprint(str(OLD_FILES), Path("/"), cache).fingerprint] * 2


def test_default_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/scaling-study")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "scaling-study"


PATTERNS = [
    ("tree", 3),
    ("tree/", 3),
    ("tree/a.py", 1),
    ("tree/*.py", 1),
    ("tree/**/*.py", 2),
    ("tree/**", 3),
    ("tr?e/d*/e[qr]/*", 1),
    ("tree/ünï*", 1),
]


@pytest.mark.parametrize(("path", "files"), PATTERNS)
def test_path_is_a_file_folder_or_pattern_locally_and_in_a_bucket(path: str, files: int, tree: Path, cache: Path) -> None:
    on_disk = fingerprint(path, tree.parent, cache)
    assert on_disk.files == files
    assert fingerprint(f"file://{tree.parent}/{path}", Path("/"), cache) == on_disk
    assert isinstance(on_disk, SourceFacts)


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "no such file or folder"),
        ("tree/*.jsonl", "no such file or folder"),
        ("images", r"none of its 1 files has a known type .*logo\.png.* allowed are \.jsonl"),
        ("void", "the source is empty: all 2 files have 0 bytes"),
    ],
)
def test_source_without_readable_files_raises(scheme: str, path: str, message: str, tree: Path, cache: Path) -> None:
    for name, content in {"images/logo.png": "x", "void/a.py": "", "void/b.txt": ""}.items():
        (tree.parent / name).parent.mkdir(exist_ok=True)
        (tree.parent / name).write_text(content)
    with pytest.raises(KeyMissing, match=message):
        fingerprint(f"{scheme}{tree.parent}/{path}" if scheme else path, tree.parent, cache)


def test_unsupported_scheme_raises(cache: Path) -> None:
    with pytest.raises(StoreError, match=r"ftp://there/: not a supported bucket; allowed are s3://, gs:// and az://"):
        fingerprint("ftp://there/corpus", Path("/"), cache)
