"""What the files of a study are: looked at here or in a pod, the answer is one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import build_app
from orchestrator.errors import Damaged, StoreUnavailable
from orchestrator.store import open_store
from orchestrator.store.memory import in_memory_store
from orchestrator.study.fingerprints import Found, Wanted, fingerprint_paths, key_of, read_result, write_result

PATHS = Wanted({"web": "web", "gone": "nowhere"}, "tokenizer.json")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.txt").write_text("some text\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_what_cannot_be_read_is_told_beside_what_can(corpus: Path) -> None:
    found = fingerprint_paths(PATHS, corpus)
    assert set(found.fingerprints) == set(found.bytes_of) == {"web"}
    assert set(found.unreachable) == {"gone"}
    assert len(found.tokenizer) == 64


def test_what_a_pod_found_is_read_as_it_was_written() -> None:
    store = in_memory_store()
    key, found = key_of("uid", PATHS), Found({"web": "a" * 64}, {"web": 3}, {"gone": "nobody is there"}, "b" * 64)
    assert read_result(store, key) is None
    write_result(store, key, found)
    assert read_result(store, key) == found
    store.objects.put(key, b"{")
    with pytest.raises(Damaged, match="delete it"):
        read_result(store, key)


def test_a_study_that_is_applied_anew_or_asks_for_other_files_is_looked_at_anew() -> None:
    keys = {key_of("uid", PATHS), key_of("other", PATHS), key_of("uid", Wanted(PATHS.sources)), key_of("uid", Wanted({"web": "b"}))}
    assert len(keys) == 4


def test_the_command_leaves_what_it_found_and_fails_while_something_is_missing(corpus: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    arguments = ["fingerprint", "--store", store, "--key", "fingerprints/x.json", "--source", f"web={corpus}/web"]
    arguments += ["--tokenizer", f"{corpus}/tokenizer.json"]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0
    found = read_result(open_store(store), "fingerprints/x.json")
    assert found == fingerprint_paths(Wanted({"web": "web"}, "tokenizer.json"), corpus)
    failed = CliRunner().invoke(build_app(), [*arguments, "--source", "gone=/nowhere/at/all"])
    assert isinstance(failed.exception, StoreUnavailable)
    again = read_result(open_store(store), "fingerprints/x.json")
    assert again is not None
    assert set(again.unreachable) == {"gone"}


def test_a_source_without_a_name_is_a_mistake() -> None:
    done = CliRunner().invoke(build_app(), ["fingerprint", "--source", "s3://corpora/web"])
    assert done.exit_code == 2
