"""Address and process of a local run's mirror; passwords in addresses are masked."""

from pathlib import Path

import pytest

from orchestrator.errors import TrackingUnavailable
from orchestrator.store import Store, open_store
from orchestrator.store.memory import in_memory_store
from orchestrator.tracking import MirrorProcess, masked, repair_command, tracking_uri, ui_command
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.mirror_process import command_of, environment_of, last_message_of
from tests.tracking.synthetic_store import PLAN, UNREACHABLE, mlflow_runs

SECRET_URI = "http://me:secret@127.0.0.1:9"


def test_mirror_process_updates_once_more_when_the_run_ends(finished_store: Store, uri: str, tmp_path: Path) -> None:
    mirror = MirrorProcess(finished_store, PLAN.study, uri, tmp_path / "tracking.log")
    assert mirror.finish(seconds=300), mirror.log.read_text()
    assert set(mlflow_runs(uri)) == set(PLAN.tasks)


def test_wait_for_the_last_update_is_limited(finished_store: Store, tmp_path: Path) -> None:
    mirror = MirrorProcess(finished_store, PLAN.study, UNREACHABLE, tmp_path / "tracking.log")
    assert not mirror.finish(seconds=0.1)


def test_tracking_uri_is_given_or_from_the_environment_or_a_local_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, bucket = open_store(str(tmp_path / "s")), in_memory_store()
    assert tracking_uri(folder, "x") == f"sqlite:///{tmp_path}/s/mlflow.db"
    assert tracking_uri(bucket, "x") == f"sqlite:///{Path.cwd()}/x.local/mlflow.db"
    assert ui_command(tracking_uri(folder, "x")) == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/s/mlflow.db"
    assert repair_command(folder, "x", tracking_uri(folder, "x")) == f"scaling-study tracking mirror x --store {tmp_path}/s"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(folder, "x") == "http://mlflow:5000"
    assert repair_command(folder, "x", "http://mlflow:5000").endswith(" --uri http://mlflow:5000"), "the variable may be unset later"
    assert tracking_uri(folder, "x", given="sqlite:////elsewhere.db") == "sqlite:////elsewhere.db"


def test_address_is_in_the_environment_and_not_in_the_command_line(finished_store: Store) -> None:
    assert command_of(finished_store, "x")[1:] == ["-m", "orchestrator.tracking", "--store", finished_store.url, "--study", "x"]
    inherited = {"PATH": "/bin", "MLFLOW_TRACKING_URI": "http://another"}
    assert environment_of(SECRET_URI, inherited) == {"PATH": "/bin", "MLFLOW_TRACKING_URI": SECRET_URI}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:pa@ss@mlflow:5000/a@b", "http://me:***@mlflow:5000/a@b"),
        ("postgresql://me:pass@db/x, http://:pass@h", "postgresql://me:***@db/x, http://:***@h"),
        ("http://mlflow:5000 of me@host", "http://mlflow:5000 of me@host"),
        ("sqlite:////a:b@c.db", "sqlite:////a:b@c.db"),
    ],
)
def test_password_in_an_address_is_masked(uri: str, shown: str) -> None:
    assert masked(uri) == shown


def test_messages_about_a_mirror_do_not_contain_its_password(finished_store: Store) -> None:
    with pytest.raises(TrackingUnavailable, match=r"http://me:\*\*\*@127") as raised:
        Mirror(in_memory_store(), PLAN, SECRET_URI)
    assert "secret" not in str(raised.value)
    assert "secret" not in ui_command(SECRET_URI) + repair_command(finished_store, PLAN.study, SECRET_URI)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "the disk is full; retrying\nTraceback (most recent call last):\n  File 'a.py', line 3, in fol",
            "the disk is full; retrying",
        ),
        ("Traceback (most recent call last):\n  File 'a.py'\nOSError: [Errno 28] No space left", "OSError: [Errno 28] No space left"),
        (f"MLflow at {SECRET_URI} is unreachable", "MLflow at http://me:***@127.0.0.1:9 is unreachable"),
        ("", ""),
    ],
)
def test_last_message_is_the_last_complete_line_of_the_log(log: str, message: str) -> None:
    assert last_message_of(log) == message


def test_an_update_that_times_out_is_not_described_as_a_full_disk(finished_store: Store, tmp_path: Path) -> None:
    mirror = MirrorProcess(finished_store, PLAN.study, UNREACHABLE, tmp_path / "tracking.log")
    assert not mirror.finish(seconds=0)
    mirror.log.write_text("")
    assert mirror.last_message() == "the last update timed out after 0 s, because MLflow or its database is slow"
    mirror.log.write_text("3 runs created")
    assert mirror.last_message().endswith("is slow; last message: 3 runs created")
