"""The worker's side of the protocol, in real processes: events, signals, the death of the parent."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from trainer.__main__ import main

from orchestrator.contract.events import End, Placement, Progress, Ready, Request, Start, to_line
from orchestrator.contract.exits import ExitCode
from tests.trainer.worker_process import FAKE_WORKER, WorkerProcess, worker_process


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with worker_process(FAKE_WORKER) as process:
        process.read_until_ready()
        yield process


def test_worker_reports_ready_and_runs_requested_tasks_in_order() -> None:
    with worker_process(FAKE_WORKER) as worker:
        worker.request("quick", Placement(run_number=1))
        worker.request("quick", Placement(run_number=2))

        assert list(itertools.islice(worker.events(), 5)) == [
            Ready(),
            Start("quick", 1),
            End("quick", 0, "run 1"),
            Start("quick", 1),
            End("quick", 0, "run 2"),
        ]
        worker.close_stdin()
        assert list(worker.events()) == []
        assert worker.exit_code() == ExitCode.DONE


def test_stdout_contains_only_events(worker: WorkerProcess) -> None:
    worker.request("print")

    assert list(itertools.islice(worker.events(), 2)) == [Start("print", 1), End("print", 0, "run 1")]
    worker.close_stdin()
    assert list(worker.events()) == []
    assert worker.exit_code() == 0
    assert "a library prints" in worker.stderr()
    assert "a child prints" in worker.stderr()


def test_idle_worker_exits_at_the_end_of_stdin(worker: WorkerProcess) -> None:
    worker.close_stdin()

    assert worker.exit_code() == ExitCode.DONE


def test_end_of_stdin_stops_the_task_and_the_worker(worker: WorkerProcess) -> None:
    worker.request("wait")
    worker.request("wait")
    worker.read_until_progress(3)

    worker.close_stdin()

    assert worker.read_until_end().code == ExitCode.STOPPED
    assert list(worker.events()) == [], "the second request is not started"
    assert worker.exit_code() == ExitCode.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_task_and_the_worker(worker: WorkerProcess, number: int) -> None:
    worker.request("wait")
    worker.request("wait")
    worker.read_until_progress(3)

    worker.signal(number)

    end = worker.read_until_end()
    assert (end.digest, end.code) == ("wait", ExitCode.STOPPED)
    assert list(worker.events()) == [], "the second request is not started"
    assert worker.exit_code() == ExitCode.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_worker(worker: WorkerProcess, number: int) -> None:
    worker.signal(number)

    assert worker.exit_code() == ExitCode.STOPPED


def test_repeated_sigterm_stops_gracefully(worker: WorkerProcess) -> None:
    worker.request("wait")
    worker.read_until_progress()

    for _ in range(5):
        worker.signal(signal.SIGTERM)

    assert worker.read_until_end().code == ExitCode.STOPPED
    assert worker.exit_code() == ExitCode.STOPPED


def test_second_interrupt_exits_at_once(worker: WorkerProcess) -> None:
    worker.request("ignore-stop")
    worker.read_until_progress()

    while worker.process.poll() is None:  # two signals that arrive together count as one
        worker.signal(signal.SIGINT)
        time.sleep(0.01)

    assert worker.exit_code() == 128 + signal.SIGINT


def test_sigterm_ends_a_child_of_the_worker(worker: WorkerProcess) -> None:
    worker.request("fork")

    assert worker.read_until_end().code == ExitCode.DONE


def test_killed_worker_sends_no_end_and_closes_its_pipe(worker: WorkerProcess) -> None:
    worker.request("wait")
    worker.read_until_progress()

    worker.signal(signal.SIGKILL)

    assert not any(isinstance(event, End) for event in worker.events())
    assert worker.exit_code() == -signal.SIGKILL


PARENT = "import signal, subprocess, sys; subprocess.Popen(sys.argv[1:]); signal.pause()"


def test_task_stops_when_the_parent_of_the_worker_dies() -> None:
    """The pipes stay open in this test, so the worker can only notice the death of its parent."""
    with worker_process((sys.executable, "-c", PARENT, *FAKE_WORKER)) as parent:
        parent.read_until_ready()
        parent.request("wait")
        parent.read_until_progress()

        parent.signal(signal.SIGKILL)

        assert parent.read_until_end().code == ExitCode.STOPPED
        assert list(parent.events()) == []


PARENT_WITH_PIPE = """
import signal, subprocess, sys
worker = subprocess.Popen(["sh", "-c", '"$@"; true', "sh", *sys.argv[2:]], stdin=subprocess.PIPE, text=True)
worker.stdin.write(sys.argv[1] + chr(10))
worker.stdin.flush()
signal.pause()
"""


def test_worker_started_by_a_shell_stops_when_the_parent_of_the_shell_dies() -> None:
    """The shell survives as the worker's parent, so the worker can only notice the end of its stdin."""
    request = to_line(Request("wait", Placement()))
    with worker_process((sys.executable, "-c", PARENT_WITH_PIPE, request, *FAKE_WORKER)) as parent:
        parent.read_until_progress()

        parent.signal(signal.SIGKILL)

        assert parent.read_until_end().code == ExitCode.STOPPED
        assert list(parent.events()) == [], "the worker has exited and closed its stdout"


def test_idle_worker_exits_when_its_parent_dies() -> None:
    with worker_process((sys.executable, "-c", PARENT, *FAKE_WORKER)) as parent:
        parent.read_until_ready()

        parent.signal(signal.SIGKILL)

        assert list(parent.events()) == []


def test_worker_stops_when_its_stdout_is_closed(worker: WorkerProcess) -> None:
    worker.request("wait")
    worker.read_until_progress()
    assert worker.process.stdout is not None

    worker.process.stdout.close()

    assert worker.process.wait() == ExitCode.STOPPED


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.REFUSED])
def test_worker_exits_after_a_failure_on_a_gpu_without_failing_the_next_task(worker: WorkerProcess, code: ExitCode) -> None:
    """If the parent has already requested another task, that task counts as stopped, not as failed."""
    worker.request(str(int(code)), Placement(gpus=1))
    worker.request("quick", Placement(gpus=1))

    assert worker.read_until_end().code == code
    assert list(worker.events()) == []
    assert worker.exit_code() == ExitCode.STOPPED


@pytest.mark.parametrize(("code", "gpus"), [(ExitCode.FAILED, 0), (ExitCode.REFUSED, 0), (ExitCode.HELD, 1), (ExitCode.DONE, 1)])
def test_worker_continues_after_every_other_exit_code(worker: WorkerProcess, code: ExitCode, gpus: int) -> None:
    worker.request(str(int(code)), Placement(gpus=gpus))
    worker.request("quick", Placement(gpus=gpus))

    assert [worker.read_until_end().code, worker.read_until_end().code] == [code, ExitCode.DONE]


def test_invalid_request_ends_the_worker_with_a_message(worker: WorkerProcess) -> None:
    worker.send_line('{"run": 3}')

    assert worker.exit_code() == ExitCode.FAILED
    assert "not a request to a worker" in worker.stderr()


def test_help_shows_both_forms_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    for word in ("DIGEST | worker", "--store", "--checkpoint-seconds", "examples:", "exit codes:", *(f" {code:2d}  " for code in ExitCode)):
        assert word in text


def test_input_without_a_fingerprint_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ab" * 32, "--store", "memory://", "--input", "corpus.jsonl"])

    assert "write FINGERPRINT=PATH" in capsys.readouterr().err


def test_unplanned_task_fails_without_importing_torch() -> None:
    script = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "ab" * 32, "--store", "memory://empty"]

    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"})

    assert done.returncode == ExitCode.FAILED, done.stderr
    assert "task.json" in done.stdout


def test_events_are_printed_to_the_pod_log(capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import _print_event

    for event in (Start("ab" * 32, 7, 64), Progress("ab" * 32, 128, 256, "tokens", 3.14159), End("ab" * 32, 75, "asked to stop")):
        _print_event(event)

    assert capsys.readouterr().out.splitlines() == [
        "abababababab attempt 7 from 64 tokens",
        "128 / 256 tokens, loss 3.1416",
        "abababababab ends with 75 (STOPPED) asked to stop",
    ]
