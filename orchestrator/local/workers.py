"""Start worker processes, send them tasks, read their events, and stop them.

A worker is `python -m trainer worker`. It runs many tasks, because importing torch takes seconds. A thread per worker puts its output
lines as messages into one queue, so that `run` waits in one place. Standard error is written to a log file, since a pipe could fill up.
Each worker has its own session: Ctrl-C in a terminal signals only the parent, which then stops the workers.
"""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Final, TypeAlias

from orchestrator.contract.events import Event, Placement, Request, read_event, to_line
from orchestrator.errors import ContractError, PlanRefused, ScalingStudyError

# Consecutive workers that exit before they are ready until the run fails: the installation is broken
MAX_STARTUP_FAILURES: Final = 3
# Seconds that workers have to exit after their input was closed
EXIT_TIMEOUT: Final = 10.0
# Lines at the end of the log that the message about a worker's exit quotes
QUOTED_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of a worker has exited. `code`: as in a shell, 137 for SIGKILL."""

    code: int


@dataclass(frozen=True, slots=True)
class UnexpectedOutput:
    """A line on a worker's stdout that is not an event, for example printed by a library."""

    text: str


Message: TypeAlias = Event | Exited | UnexpectedOutput
# SimpleQueue, because a signal handler puts into it while the main thread may be in `get`: the lock of Queue would deadlock.
Inbox: TypeAlias = "queue.SimpleQueue[tuple[Worker | None, Message | None]]"


def trainer_command(store_url: str) -> list[str]:
    return [sys.executable, "-m", "trainer", "worker", "--store", store_url]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES or, if it is unset, those listed by the driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []


def environment(threads: int) -> dict[str, str]:
    """Return a worker's environment: `threads` for torch, where they affect sums; all cores for the tokenizer, where they do not."""
    share = str(threads)
    return {
        "OMP_NUM_THREADS": share,
        "MKL_NUM_THREADS": share,
        "OPENBLAS_NUM_THREADS": share,
        "TOKENIZERS_PARALLELISM": "true",
        "RAYON_NUM_THREADS": str(cores()),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@dataclass(eq=False)
class Worker:
    """A worker process. `task`: digest of the running task, "" if idle. `is_ready`: it has imported its modules."""

    number: int
    process: "subprocess.Popen[str]"
    log: Path
    devices: tuple[str, ...] = ()
    task: str = ""
    is_ready: bool = False

    def assign(self, digest: str, placement: Placement) -> None:
        """Send a task to the worker. An exit of the worker is reported by its Exited message, not here."""
        self.task = digest
        self._write(to_line(Request(digest, placement)) + "\n")

    def ask_to_stop(self) -> None:
        """Stop the worker: SIGTERM if it runs a task, so that it writes a checkpoint and exits; then close its input."""
        if self.task:
            self.process.send_signal(signal.SIGTERM)
        self.close_input()

    def close_input(self) -> None:
        """Close the input of the worker. An idle worker exits; a running task is stopped as by SIGTERM."""
        try:
            if self.process.stdin:
                self.process.stdin.close()
        except OSError:
            pass

    def kill(self) -> None:
        self.process.kill()

    def log_tail(self) -> str:
        """Return the last lines of its log, for the message about its exit."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-QUOTED_LINES:])

    def _write(self, line: str) -> None:
        stdin = self.process.stdin
        try:
            if stdin and not stdin.closed:
                stdin.write(line)
                stdin.flush()
        except OSError:
            pass


def start_worker(number: int, command: Sequence[str], extra: Mapping[str, str], log: Path, inbox: Inbox) -> Worker:
    """Start a worker that sends its messages to `inbox`. The last message is Exited."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stderr:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **extra},
            start_new_session=True,
        )
    worker = Worker(number, process, log)
    assert process.stdout is not None
    threading.Thread(target=_listen, args=(worker, process.stdout, inbox), daemon=True, name=f"worker-{number}").start()
    return worker


def share_gpus(gpus: int, workers: int) -> list[tuple[str, ...]]:
    """Return one device for each of `workers`; for 0, one worker per visible device.

    Raises PlanRefused if there are too few devices, or for more than one GPU per worker: a worker is one process.
    """
    if gpus > 1:
        raise PlanRefused(
            f"a worker trains on one GPU, but {gpus} were requested.\n    Use --gpus 1: the other GPUs of the machine run "
            "other tasks at the same time. To train one task on several GPUs, run `python -m trainer DIGEST --store URL --gpus 8`"
        )
    there = visible_gpus()
    shared = workers or len(there)
    if not shared or shared > len(there):
        raise PlanRefused(
            f"{max(1, shared)} workers with one GPU each need {max(1, shared)} GPUs; {len(there)} are visible.\n"
            "    Use fewer --workers, or check CUDA_VISIBLE_DEVICES"
        )
    return [(device,) for device in there[:shared]]


@dataclass
class WorkerPool:
    """The workers of one run: at most `limit`, started on demand and replaced when they exit.

    `devices`: the GPUs of each concurrent worker; empty if they use none.
    """

    command: Sequence[str]
    extra: Mapping[str, str]
    logs: Path
    limit: int
    devices: Sequence[tuple[str, ...]] = ()
    workers: list[Worker] = field(default_factory=list)
    _started: int = 0
    _startup_failures: int = 0

    def idle(self) -> Worker | None:
        return next((worker for worker in self.workers if not worker.task), None)

    def has_room(self) -> bool:
        """Return whether one more task can be assigned."""
        return len(self.workers) < self.limit or self.idle() is not None

    def start(self, inbox: Inbox) -> Worker:
        self._started += 1
        taken = {worker.devices for worker in self.workers}
        devices = next((each for each in self.devices if each not in taken), ())
        extra = {**self.extra, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
        worker = start_worker(self._started, self.command, extra, self.logs / f"worker-{self._started}.log", inbox)
        worker.devices = devices
        self.workers.append(worker)
        return worker

    def note_ready(self, worker: Worker) -> None:
        worker.is_ready = True
        self._startup_failures = 0

    def reap(self, worker: Worker, code: int, *, is_expected: bool) -> None:
        """Remove an exited worker. Raises ScalingStudyError after MAX_STARTUP_FAILURES consecutive exits before ready."""
        self.workers.remove(worker)
        worker.close_input()
        if worker.is_ready or is_expected:
            return
        self._startup_failures += 1
        if self._startup_failures >= MAX_STARTUP_FAILURES:
            raise ScalingStudyError(
                f"{self._startup_failures} consecutive workers exited before they were ready (exit code {code}). Log of the last one, "
                f"{worker.log}:\n{worker.log_tail()}\nRun the command by hand: {shlex.join(self.command)}"
            )

    def close(self) -> None:
        """Stop all workers and wait for them. A running task, if the run itself failed, writes a checkpoint first."""
        for worker in self.workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + EXIT_TIMEOUT
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.process.wait()


def _listen(worker: Worker, stdout: IO[str], inbox: Inbox) -> None:
    with stdout:
        for line in stdout:
            try:
                inbox.put((worker, read_event(line)))
            except ContractError:
                inbox.put((worker, UnexpectedOutput(line.rstrip())))
    code = worker.process.wait()
    inbox.put((worker, Exited(code if code >= 0 else 128 - code)))


@dataclass
class StopRequest:
    """Number of stop requests: the first stops the tasks with a checkpoint, the second kills them. Wakes the run through `inbox`."""

    times: int = 0
    inbox: Inbox = field(default_factory=queue.SimpleQueue)

    def ask(self) -> None:
        self.times += 1
        self.inbox.put((None, None))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Count SIGINT, SIGTERM and SIGHUP as stop requests inside the block."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.ask()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
