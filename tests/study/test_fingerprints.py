"""Fingerprints of a study's files, computed locally or in a pod: both give the same result."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import build_app
from orchestrator.errors import Damaged, StoreUnavailable
from orchestrator.store import open_store
from orchestrator.store.memory import in_memory_store
from orchestrator.study.fingerprints import FingerprintRequest, FingerprintResult, fingerprint_paths, read_result, result_key, write_result

PATHS = FingerprintRequest({"web": "web", "gone": "nowhere"}, "tokenizer.json")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.txt").write_text("some text\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_unreachable_sources_are_reported_with_the_results_of_the_others(corpus: Path) -> None:
    found = fingerprint_paths(PATHS, corpus)
    assert set(found.fingerprints) == set(found.bytes_of) == {"web"}
    assert set(found.unreachable) == {"gone"}
    assert len(found.tokenizer) == 64


def test_written_result_reads_back_and_damage_raises() -> None:
    store = in_memory_store()
    key, found = result_key("uid", PATHS), FingerprintResult({"web": "a" * 64}, {"web": 3}, {"gone": "no such folder"}, "b" * 64)
    assert read_result(store, key) is None
    write_result(store, key, found)
    assert read_result(store, key) == found
    store.objects.put(key, b"{")
    with pytest.raises(Damaged, match="delete it"):
        read_result(store, key)


def test_another_uid_or_other_paths_give_another_key() -> None:
    keys = {
        result_key("uid", PATHS),
        result_key("other", PATHS),
        result_key("uid", FingerprintRequest(PATHS.sources)),
        result_key("uid", FingerprintRequest({"web": "b"})),
    }
    assert len(keys) == 4


def test_command_writes_its_result_and_fails_if_a_source_is_unreachable(corpus: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    arguments = ["fingerprint", "--store", store, "--key", "fingerprints/x.json", "--source", f"web={corpus}/web"]
    arguments += ["--tokenizer", f"{corpus}/tokenizer.json"]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0
    found = read_result(open_store(store), "fingerprints/x.json")
    assert found == fingerprint_paths(FingerprintRequest({"web": "web"}, "tokenizer.json"), corpus)
    failed = CliRunner().invoke(build_app(), [*arguments, "--source", "gone=/nowhere/at/all"])
    assert isinstance(failed.exception, StoreUnavailable)
    again = read_result(open_store(store), "fingerprints/x.json")
    assert again is not None
    assert set(again.unreachable) == {"gone"}


def test_source_without_a_name_is_a_usage_error() -> None:
    done = CliRunner().invoke(build_app(), ["fingerprint", "--source", "s3://corpora/web"])
    assert done.exit_code == 2
