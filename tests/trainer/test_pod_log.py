"""The command of a pod, as a process: its output is stored with its attempt, and its progress is written for Argo."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer.attempt.pod_log import FIRST_BYTES, LAST_BYTES, PodLog

from orchestrator.contract.tasks import Reader, TokenizerTask
from orchestrator.store import Store, open_store
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.memory import Fault, InMemoryObjects
from orchestrator.store.records import create_task, read_record
from orchestrator.study.sources import fingerprint


def test_pod_stores_its_log_with_the_attempt_and_writes_progress_for_argo(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(20):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"document {number} of different words: {' '.join(map(str, range(number, 99)))}")
    found = fingerprint(str(tmp_path / "corpus/*.txt"), tmp_path, tmp_path / "hashes").fingerprint
    store = open_store(str(tmp_path / "store"))
    digest = create_task(store, TokenizerTask(280, 20_000, 4, ((found, Reader("text", 2000), 1),)))
    inputs = f"--input={found}={tmp_path}/corpus/*.txt"
    command = [sys.executable, "-m", "trainer", digest, "--store", str(tmp_path / "store"), inputs]
    environment = {**os.environ, "ARGO_PROGRESS_FILE": str(tmp_path / "progress")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert read_record(store, digest) is not None
    assert f"{digest[:12]} ends with 0 (DONE)" in done.stdout
    assert store.objects.get(f"tasks/{digest}/attempts/000001/log.txt").decode() == done.stdout
    part, whole = map(int, (tmp_path / "progress").read_text().split("/"))
    assert 0 < part == whole


@pytest.fixture
def leased() -> tuple[Store, Lease]:
    store = Store(InMemoryObjects(), "memory://log")
    return store, acquire(store, "tasks/" + "a" * 64, "a" * 64, Holder())


def stored_log(store: Store, lease: Lease, write: Callable[[], None]) -> str:
    with PodLog(store) as log:
        log.attach(lease)
        write()
    return store.objects.get(lease.key("log.txt")).decode()


def write_all(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]


def test_output_of_libraries_and_children_is_stored_and_forwarded(leased: tuple[Store, Lease], capfd: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        os.write(1, b"from Python\n")
        os.write(2, b"from a library in C\n")
        subprocess.run(["echo", "from a child"], check=True)

    assert stored_log(*leased, write) == "from Python\nfrom a library in C\nfrom a child\n"
    assert capfd.readouterr().out == "from Python\nfrom a library in C\nfrom a child\n"


def test_long_log_is_truncated_in_the_middle(leased: tuple[Store, Lease], capfd: pytest.CaptureFixture[str]) -> None:
    lines = [f"line {number:07}\n" for number in range((FIRST_BYTES + 2 * LAST_BYTES) // 13)]
    kept = stored_log(*leased, lambda: write_all("".join(lines).encode()))
    assert capfd.readouterr().out == "".join(lines)
    assert kept.startswith("line 0000000\n")
    assert kept.endswith(lines[-1])
    assert f"... {sum(map(len, lines)) - FIRST_BYTES - LAST_BYTES} bytes omitted ..." in kept


def test_log_write_failure_is_only_reported(leased: tuple[Store, Lease], capfd: pytest.CaptureFixture[str]) -> None:
    store, lease = leased
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("put", "*log.txt", "before", message="unreachable"))
    with PodLog(store) as log:
        log.attach(lease)
        os.write(1, b"a line\n")
    output = capfd.readouterr()
    assert output.out == "a line\n"
    assert "could not write the log to the store" in output.err


def test_output_before_a_kill_is_stored(tmp_path: Path) -> None:
    """The log is written periodically, not only at the end."""
    script = (
        "import os, sys, time; from trainer.attempt.pod_log import PodLog; from orchestrator.store import open_store;"
        "from orchestrator.store.leases import Holder, acquire; store = open_store(sys.argv[1]);"
        "lease = acquire(store, 'tasks/' + 'a' * 64, 'a' * 64, Holder()); log = PodLog(store, seconds=0.05).__enter__();"
        "log.attach(lease); print('a line', flush=True)\n"
        "while lease.key('log.txt') not in [stat.key for stat in store.objects.list(lease.key())]: time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert open_store(str(tmp_path)).objects.get(f"tasks/{'a' * 64}/attempts/000001/log.txt") == b"a line\n"
