"""Repeated updates of a mirror: outages, concurrent mirrors, and the last update after a stop request."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from orchestrator.errors import TrackingUnavailable
from orchestrator.store import Store
from orchestrator.tracking.follow import LastAttempts, follow, mirror_once, sole_writer
from orchestrator.tracking.mirror import Mirror
from tests.tracking.synthetic_store import PLAN, UNREACHABLE, mlflow_runs

# The command line, with a different time limit for a failing last update than 5 s
COMMAND_LINE = "import orchestrator.tracking.follow as f; f.GIVE_UP = {give_up}; from orchestrator.cli import main; main()"


def test_mirror_is_complete_after_an_outage(finished_store: Store, uri: str, tmp_path: Path) -> None:
    """The folder of the database does not exist at the first attempt."""
    folder, messages = tmp_path / "unreachable", list[str]()
    folder.write_text("a file where the folder should be")

    def wait() -> bool:
        if not folder.is_dir():
            folder.unlink()
            folder.mkdir()
            shutil.copy(uri.removeprefix("sqlite:///"), folder / "mlflow.db")
        return False

    blocked = f"sqlite:///{folder}/mlflow.db"
    assert follow(finished_store, PLAN.study, blocked, None, wait, messages.append, until_done=True)
    assert any("retrying" in message for message in messages)
    assert set(mlflow_runs(blocked)) == set(PLAN.tasks)


def test_sqlite_file_has_a_single_writer(finished_store: Store, uri: str) -> None:
    with sole_writer(uri), pytest.raises(TrackingUnavailable, match="another process mirrors"):
        mirror_once(finished_store, PLAN.study, uri, None)
    assert mirror_once(finished_store, PLAN.study, uri, None).runs
    with sole_writer("http://mlflow:5000"), sole_writer("http://mlflow:5000"):
        """A server may have several writers."""


def test_failing_last_update_is_retried_until_the_limit(finished_store: Store) -> None:
    pauses, messages = list[float](), list[str]()
    attempts = LastAttempts("the stop request", pauses.append, lambda: sum(pauses))
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://127.* is unreachable, .*; given up 5 s after the stop request"):
        follow(finished_store, PLAN.study, UNREACHABLE, None, attempts.another, messages.append, until_done=True)
    assert len(messages) == len(pauses) + 1 == 12


@pytest.mark.parametrize(("times", "give_up", "code"), [(1, 1.0, 1), (2, 600.0, 75)])
def test_ctrl_c_ends_a_mirror_whose_server_is_unreachable(finished_store: Store, times: int, give_up: float, code: int) -> None:
    command = [sys.executable, "-c", COMMAND_LINE.format(give_up=give_up), "tracking", "mirror", PLAN.study, "--store", finished_store.url]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command += ["--uri", UNREACHABLE, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as mirror:
        assert mirror.stdout is not None
        lines = [mirror.stdout.readline()]
        assert lines[0].endswith("retrying\n")
        for _ in range(times):
            mirror.send_signal(signal.SIGINT)
            # the next line comes from the attempt that the signal started, or from the end of the process
            lines.append(mirror.stdout.readline())
        lines += mirror.stdout
    assert mirror.returncode == code, lines
    assert any("given up 1 s after the stop request" in line for line in lines) == (times == 1)
    assert (len(lines) < 20, any("Traceback" in line for line in lines)) == (True, False), "it pauses between two attempts"


@pytest.mark.long
def test_mirror_is_complete_after_an_outage_of_a_real_server(finished_store: Store, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    messages: list[str] = []
    servers: list[subprocess.Popen[bytes]] = []

    def wait() -> bool:
        if not servers:
            command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
            command += ["--default-artifact-root", str(tmp_path / "artifacts"), "--port", str(port), "--workers", "1"]
            servers.append(subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}))
            wait_until_healthy(uri, servers[0])
        return False

    try:
        assert follow(finished_store, PLAN.study, uri, None, wait, messages.append, until_done=True)
        assert any("retrying" in message for message in messages)
        assert set(mlflow_runs(uri)) == set(PLAN.tasks)
        assert not Mirror(finished_store, PLAN, uri).bring_up_to_date().changed
    finally:
        for server in servers:
            server.terminate()
            server.wait(30)


def wait_until_healthy(uri: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until an MLflow server answers. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has exited"
        try:
            with urlopen(f"{uri}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"{uri} did not answer within {seconds:.0f} s")
