"""Patterns of sources match as `glob` does, in linear time, and follow no cycle of links."""

import glob
import os
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import KeyMissing, StoreError
from orchestrator.store.corpora import expand
from orchestrator.store.patterns import parse_pattern

SECONDS = 1.0
"""Most patterns take milliseconds; an exponential one takes hours."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders a and b in folders a and b, three levels deep, with files `x.py`, `ab.py` and hidden ones."""
    root = tmp_path_factory.mktemp("tree")
    for depth in range(4):
        for number in range(2**depth):
            folder = root.joinpath(*("ab"[number >> level & 1] for level in range(depth)))
            folder.mkdir(exist_ok=True)
            for name in ("x.py", "ab.py", ".h.py"):
                (folder / name).write_text(name)
    (root / ".hidden").mkdir()
    (root / ".hidden/x.py").write_text("x")
    (root / "link").symlink_to(root / "a")
    return root


WORDS = ["**", "*", "a", "b", "?", "[ab]", "*.py", "x.py", "[!a]*", ".*", "link", ".hidden"]
SEGMENTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)


@settings(max_examples=300)
@given(segments=SEGMENTS)
def test_patterns_match_the_files_that_glob_matches(tree: Path, segments: list[str]) -> None:
    pattern = "/".join(segments)
    assume(not (tree / pattern).is_dir())  # a folder stands for all its files
    # glob gives `x.py/` for `x.py/**`
    matches = (name for name in glob.glob(f"{tree}/{pattern}", recursive=True) if not name.endswith("/"))  # noqa: PTH207
    there = {name for name in matches if Path(name).is_file()}
    try:
        found = {file.name for file in expand(pattern, tree)}
    except KeyMissing:
        found = set()
    assert found == there


@pytest.mark.parametrize("pattern", ["**/" * 10 + "x.py", "**/a/" * 10 + "x.py", "**/*a*a*a*a*a*a*/" * 10 + "**/x"])
def test_many_stars_match_in_linear_time(pattern: str) -> None:
    parsed, started = parse_pattern(pattern), time.monotonic()
    parsed.matches(["a"] * 500 + ["b"])
    parsed.matches(["a" * 200] * 50 + ["b"])
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("url", [False, True])
def test_consecutive_double_stars_match_as_one(tree: Path, url: bool) -> None:
    place = f"file://{tree}/b" if url else f"{tree}/b"
    started = time.monotonic()
    assert [file.name for file in expand(f"{place}/{'**/' * 10}x.py", tree)] == [file.name for file in expand(f"{place}/**/x.py", tree)]
    assert time.monotonic() - started < SECONDS


def test_cycles_of_links_are_not_followed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(name)
        (tmp_path / name / "up").symlink_to("..")
        (tmp_path / name / "itself").symlink_to("itself")
        (tmp_path / name / "other").symlink_to(f"../{'b' if name == 'a' else 'a'}")
    started = time.monotonic()
    found = [file.name.removeprefix(f"{tmp_path}/") for file in expand("**/*.py", tmp_path)]
    assert time.monotonic() - started < SECONDS
    assert found == ["a/a.py", "a/other/b.py", "b/b.py", "b/other/a.py"]


def test_folders_that_all_link_to_each_other_are_refused(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(9)]
    for name in names:
        (tmp_path / name).mkdir()
        for other in names:
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    with pytest.raises(StoreError, match="follows more than 1,000 links in linked folders"):
        expand("**/*.py", tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("[z-a].py", r"\[z-a\] is an empty range; write \[a-z\]"),
        ("s3://bucket/[z-a].py", r"\[z-a\] is an empty range; write \[a-z\]"),
        ("s3://[bad", "not a valid URL"),
        ("s3://[bad/*.py", "not a valid URL"),
        ("file:///tmp/" + "a**b" * 4, r"at most 3 `\*\*` may stand beside other characters"),
        ("~nobody-of-this-name/x", "write an absolute path"),
        ("x" * 300, "File name too long|no such file"),
        ("[x", "no such file"),
    ],
)
def test_invalid_patterns_are_clear_errors(path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message):
        expand(path, tmp_path)


@pytest.mark.parametrize("pattern", ["a**", "**b.py", "a**b.py"])
def test_double_star_within_a_segment_matches_across_folders_in_a_bucket(tree: Path, pattern: str) -> None:
    there = glob.glob(f"{tree}/**", recursive=True)  # noqa: PTH207
    wanted = {
        f"file://{name}"
        for name in there
        if Path(name).is_file() and not name.startswith(f"{tree}/link") and name.removeprefix(f"{tree}/").startswith(pattern.split("**")[0])
        and name.endswith(pattern.split("**")[1])
    }  # fmt: skip
    assert {file.name for file in expand(f"file://{tree}/{pattern}", tree)} - {f"file://{tree}/link"} >= wanted
    assert wanted


def test_error_names_the_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.py")).write_text("x")
    with pytest.raises(StoreError, match=r"\\xff\.py: the name of this file or of its folder is not UTF-8; rename it"):
        expand(str(tmp_path), Path("/"))


def test_named_pipes_are_not_files_of_a_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.py")
    for path in ("a.py", "*.py", ".", f"file://{tmp_path}/a.py", f"file://{tmp_path}/*.py"):
        with pytest.raises(KeyMissing):
            expand(path, tmp_path)
