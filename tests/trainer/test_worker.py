"""The worker's side of the protocol, in real processes: events, signals, a parent that goes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from trainer.__main__ import main

from orchestrator.contract.events import End, Placement, Progress, Ready, Start
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
        worker.leave_alone()

        assert list(worker.events()) == [
            Ready(),
            Start("quick", 1),
            End("quick", 0, "run 1"),
            Start("quick", 1),
            End("quick", 0, "run 2"),
        ]
        assert worker.left_with() == ExitCode.DONE


def test_stdout_belongs_to_the_events(worker: WorkerProcess) -> None:
    worker.ask("noisy")
    worker.leave_alone()

    assert list(worker.events()) == [Start("noisy", 1), End("noisy", 0, "run 1")]
    assert worker.left_with() == 0
    assert "a library prints" in worker.complaints()
    assert "a child prints" in worker.complaints()


def test_an_idle_worker_leaves_when_its_stdin_ends(worker: WorkerProcess) -> None:
    worker.leave_alone()

    assert worker.left_with() == ExitCode.DONE


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


def test_more_sigterms_than_one_are_as_polite_as_one(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.until_progress()

    for _ in range(5):
        worker.signal(signal.SIGTERM)

    assert worker.until_end().code == ExitCode.STOPPED
    assert worker.left_with() == ExitCode.STOPPED


def test_a_second_interrupt_means_at_once(worker: WorkerProcess) -> None:
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


PARENT = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


def test_a_worker_whose_parent_dies_stops_at_the_next_step() -> None:
    """Its pipes stay open here: nothing but the parent's death tells it."""
    with worker_process((sys.executable, "-c", PARENT, *SLOW_WORKER)) as parent:
        parent.until_ready()
        parent.ask("slow")
        parent.until_progress()

        parent.signal(signal.SIGKILL)

        assert parent.until_end().code == ExitCode.STOPPED
        assert list(parent.events()) == []


def test_an_idle_worker_whose_parent_dies_leaves() -> None:
    with worker_process((sys.executable, "-c", PARENT, *SLOW_WORKER)) as parent:
        parent.until_ready()

        parent.signal(signal.SIGKILL)

        assert list(parent.events()) == []


def test_a_worker_that_nobody_listens_to_stops(worker: WorkerProcess) -> None:
    worker.ask("slow")
    worker.until_progress()
    assert worker.process.stdout is not None

    worker.process.stdout.close()

    assert worker.process.wait() == ExitCode.STOPPED


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.REFUSED])
def test_a_worker_whose_task_failed_on_a_gpu_leaves_and_has_not_failed_the_next(worker: WorkerProcess, code: ExitCode) -> None:
    """As a parent that has already given it another task sees it: that one was stopped, which is no failure."""
    worker.ask(str(int(code)), Placement(gpus=1))
    worker.ask("quick", Placement(gpus=1))
    worker.leave_alone()

    assert worker.until_end().code == code
    assert list(worker.events()) == []
    assert worker.left_with() == ExitCode.STOPPED


@pytest.mark.parametrize(("code", "gpus"), [(ExitCode.FAILED, 0), (ExitCode.REFUSED, 0), (ExitCode.HELD, 1), (ExitCode.DONE, 1)])
def test_a_worker_stays_after_every_other_end(worker: WorkerProcess, code: ExitCode, gpus: int) -> None:
    worker.ask(str(int(code)), Placement(gpus=gpus))
    worker.ask("quick", Placement(gpus=gpus))

    assert [worker.until_end().code, worker.until_end().code] == [code, ExitCode.DONE]


def test_a_line_that_is_no_request_ends_the_worker_with_a_word(worker: WorkerProcess) -> None:
    worker.say('{"run": 3}')

    assert worker.left_with() == ExitCode.FAILED
    assert "not a request to a worker" in worker.complaints()


def test_help_teaches_the_two_ways_to_call_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_task_that_nobody_planned_fails_with_a_word_and_no_torch() -> None:
    script = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules, 'torch was imported for nothing'; sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "ab" * 32, "--store", "memory://empty"]

    left = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"})

    assert left.returncode == ExitCode.FAILED, left.stderr
    assert "task.json" in left.stdout


def test_progress_is_read_by_people_in_the_log_of_a_pod(capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import _tell

    for event in (Start("ab" * 32, 7, 64), Progress("ab" * 32, 128, 256, "tokens", 3.14159), End("ab" * 32, 75, "asked to stop")):
        _tell(event)

    assert capsys.readouterr().out.splitlines() == [
        "abababababab attempt 7 from 64 tokens",
        "128 / 256 tokens, loss 3.1416",
        "abababababab ends with 75 (STOPPED) asked to stop",
    ]
