"""The worker's side of the protocol, in real processes: events, signals, a parent that goes."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from trainer.__main__ import main

from orchestrator.contract.events import End, Placement, Progress, Ready, Request, Start, to_line
from orchestrator.contract.exits import ExitCode
from tests.trainer.worker_process import SLOW_WORKER, WorkerProcess, worker_process


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with worker_process(SLOW_WORKER) as process:
        process.until_ready()
        yield process


def test_a_worker_says_ready_then_does_one_task_after_the_other() -> None:
    with worker_process(SLOW_WORKER) as worker:
        worker.ask("quick", Placement(run_number=1))
        worker.ask("quick", Placement(run_number=2))

        assert list(itertools.islice(worker.events(), 5)) == [
            Ready(),
            Start("quick", 1),
            End("quick", 0, "run 1"),
            Start("quick", 1),
            End("quick", 0, "run 2"),
        ]
        worker.leave_alone()
        assert list(worker.events()) == []
        assert worker.left_with() == ExitCode.DONE


def test_stdout_contains_only_events(worker: WorkerProcess) -> None:
    worker.ask("noisy")

    assert list(itertools.islice(worker.events(), 2)) == [Start("noisy", 1), End("noisy", 0, "run 1")]
    worker.leave_alone()
    assert list(worker.events()) == []
    assert worker.left_with() == 0
    assert "a library prints" in worker.complaints()
    assert "a child prints" in worker.complaints()


def test_an_idle_worker_leaves_when_its_stdin_ends(worker: WorkerProcess) -> None:
    worker.leave_alone()

    assert worker.left_with() == ExitCode.DONE


def test_end_of_stdin_stops_the_task_and_the_worker(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.ask("slow")
    worker.until_progress(3)

    worker.leave_alone()

    assert worker.until_end().code == ExitCode.STOPPED
    assert list(worker.events()) == [], "the second request is not started"
    assert worker.left_with() == ExitCode.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_task_and_the_worker(worker: WorkerProcess, number: int) -> None:
    worker.ask("slow")
    worker.ask("slow")
    worker.until_progress(3)

    worker.signal(number)

    end = worker.until_end()
    assert (end.digest, end.code) == ("slow", ExitCode.STOPPED)
    assert list(worker.events()) == [], "the second request is left alone"
    assert worker.left_with() == ExitCode.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_an_idle_worker_makes_it_leave(worker: WorkerProcess, number: int) -> None:
    worker.signal(number)

    assert worker.left_with() == ExitCode.STOPPED


def test_repeated_sigterm_stops_gracefully(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.until_progress()

    for _ in range(5):
        worker.signal(signal.SIGTERM)

    assert worker.until_end().code == ExitCode.STOPPED
    assert worker.left_with() == ExitCode.STOPPED


def test_second_interrupt_exits_at_once(worker: WorkerProcess) -> None:
    worker.ask("deaf")
    worker.until_progress()
    worker.signal(signal.SIGINT)
    worker.until_progress()

    worker.signal(signal.SIGINT)

    assert worker.left_with() == 128 + signal.SIGINT


def test_a_child_of_the_worker_dies_of_its_own_signals(worker: WorkerProcess) -> None:
    worker.ask("forks")

    assert worker.until_end().code == ExitCode.DONE


def test_a_killed_worker_leaves_no_end_and_its_parent_sees_the_pipe_close(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.until_progress()

    worker.signal(signal.SIGKILL)

    assert not any(isinstance(event, End) for event in worker.events())
    assert worker.left_with() == -signal.SIGKILL


PARENT = "import signal, subprocess, sys; subprocess.Popen(sys.argv[1:]); signal.pause()"


def test_a_worker_whose_parent_dies_stops_at_the_next_step() -> None:
    """The pipes stay open in this test, so the worker can only notice the death of its parent."""
    with worker_process((sys.executable, "-c", PARENT, *SLOW_WORKER)) as parent:
        parent.until_ready()
        parent.ask("slow")
        parent.until_progress()

        parent.signal(signal.SIGKILL)

        assert parent.until_end().code == ExitCode.STOPPED
        assert list(parent.events()) == []


PARENT_WITH_PIPE = """
import signal, subprocess, sys
worker = subprocess.Popen(["sh", "-c", '"$@"; true', "sh", *sys.argv[2:]], stdin=subprocess.PIPE, text=True)
worker.stdin.write(sys.argv[1] + chr(10))
worker.stdin.flush()
signal.pause()
"""


def test_worker_started_by_a_shell_stops_when_the_command_is_killed() -> None:
    """The shell survives as the worker's parent, so the worker can only notice the end of its stdin."""
    request = to_line(Request("slow", Placement()))
    with worker_process((sys.executable, "-c", PARENT_WITH_PIPE, request, *SLOW_WORKER)) as parent:
        parent.until_progress()

        parent.signal(signal.SIGKILL)

        assert parent.until_end().code == ExitCode.STOPPED
        assert list(parent.events()) == [], "the worker has exited and closed its stdout"


def test_an_idle_worker_whose_parent_dies_leaves() -> None:
    with worker_process((sys.executable, "-c", PARENT, *SLOW_WORKER)) as parent:
        parent.until_ready()

        parent.signal(signal.SIGKILL)

        assert list(parent.events()) == []


def test_worker_stops_when_its_stdout_is_closed(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.until_progress()
    assert worker.process.stdout is not None

    worker.process.stdout.close()

    assert worker.process.wait() == ExitCode.STOPPED


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.REFUSED])
def test_a_worker_whose_task_failed_on_a_gpu_leaves_and_has_not_failed_the_next(worker: WorkerProcess, code: ExitCode) -> None:
    """If the parent has already requested another task, that task counts as stopped, not as failed."""
    worker.ask(str(int(code)), Placement(gpus=1))
    worker.ask("quick", Placement(gpus=1))

    assert worker.until_end().code == code
    assert list(worker.events()) == []
    assert worker.left_with() == ExitCode.STOPPED


@pytest.mark.parametrize(("code", "gpus"), [(ExitCode.FAILED, 0), (ExitCode.REFUSED, 0), (ExitCode.HELD, 1), (ExitCode.DONE, 1)])
def test_a_worker_stays_after_every_other_end(worker: WorkerProcess, code: ExitCode, gpus: int) -> None:
    worker.ask(str(int(code)), Placement(gpus=gpus))
    worker.ask("quick", Placement(gpus=gpus))

    assert [worker.until_end().code, worker.until_end().code] == [code, ExitCode.DONE]


def test_invalid_request_ends_the_worker_with_a_message(worker: WorkerProcess) -> None:
    worker.say('{"run": 3}')

    assert worker.left_with() == ExitCode.FAILED
    assert "not a request to a worker" in worker.complaints()


def test_help_shows_both_forms_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])

    text = capsys.readouterr().out
    assert left.value.code == 0
    for word in ("DIGEST | worker", "--store", "--checkpoint-seconds", "examples:", "exit codes:", *(f" {code:2d}  " for code in ExitCode)):
        assert word in text


def test_an_input_without_its_fingerprint_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ab" * 32, "--store", "memory://", "--input", "corpus.jsonl"])

    assert "write FINGERPRINT=PATH" in capsys.readouterr().err


def test_unplanned_task_fails_without_importing_torch() -> None:
    script = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules, 'torch was imported for nothing'; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "ab" * 32, "--store", "memory://empty"]

    left = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"})

    assert left.returncode == ExitCode.FAILED, left.stderr
    assert "task.json" in left.stdout


def test_events_are_printed_to_the_pod_log(capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import _print_event

    for event in (Start("ab" * 32, 7, 64), Progress("ab" * 32, 128, 256, "tokens", 3.14159), End("ab" * 32, 75, "asked to stop")):
        _print_event(event)

    assert capsys.readouterr().out.splitlines() == [
        "abababababab attempt 7 from 64 tokens",
        "128 / 256 tokens, loss 3.1416",
        "abababababab ends with 75 (STOPPED) asked to stop",
    ]
