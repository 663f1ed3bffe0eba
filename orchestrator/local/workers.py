"""Worker processes: start one, hand it a task, hear its events, end it.

A worker is `python -m trainer worker`; it stays for many tasks, because importing torch takes seconds. Each has a thread here that turns
its lines into messages on one queue, so that `run` waits in one place. Its standard error goes to a log file, never to a pipe that could
fill up. Workers live in sessions of their own: Ctrl-C in a terminal reaches the parent alone, which then stops them in order.
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

# Workers that die before they are ready, one after the other, before the run gives up: the installation is broken.
DEATHS_AT_THE_START: Final = 3
# Seconds that an idle worker gets to leave after its input has been closed.
LEAVE: Final = 10.0
# Lines of a dead worker's log that its message quotes.
QUOTED_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker's process has ended. `code`: as a shell counts, 137 for killed."""

    code: int


@dataclass(frozen=True, slots=True)
class Stray:
    """A line on a worker's stdout that is no event, for example a library's print."""

    text: str


Message: TypeAlias = Event | Gone | Stray
# A SimpleQueue, since a signal handler puts into it while the main thread may be inside get: Queue's lock would wait for itself.
Inbox: TypeAlias = "queue.SimpleQueue[tuple[Worker | None, Message | None]]"


def trainer_command(store_url: str) -> list[str]:
    return [sys.executable, "-m", "trainer", "worker", "--store", store_url]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; by the driver's list where that is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []


def environment(threads: int) -> dict[str, str]:
    """What keeps a worker to its share: torch's threads as asked (they change sums), the tokenizer's by the machine (they do not)."""
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
    """One process. `task` is the digest it works on, "" when it is idle; `is_ready` once it has imported what it needs."""

    number: int
    process: "subprocess.Popen[str]"
    log: Path
    devices: tuple[str, ...] = ()
    task: str = ""
    is_ready: bool = False

    def give(self, digest: str, placement: Placement) -> None:
        """Hands a task over. A worker that has just died is found out by its Gone message, not here."""
        self.task = digest
        self._write(to_line(Request(digest, placement)) + "\n")

    def ask_to_stop(self) -> None:
        """Finish the step, write a checkpoint, leave: SIGTERM to one at work, the end of its input to an idle one."""
        if self.task:
            self.process.send_signal(signal.SIGTERM)
        self.dismiss()

    def dismiss(self) -> None:
        """Leave after the task in hand."""
        try:
            if self.process.stdin:
                self.process.stdin.close()
        except OSError:
            pass

    def kill(self) -> None:
        self.process.kill()

    def last_words(self) -> str:
        """The end of its log, for a message about its death."""
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
    """A new process whose messages arrive in `inbox`, the last one being Gone."""
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
    """A device for each of `workers`, as many workers as there are devices if 0.

    Raises PlanRefused when there are too few, or when a worker, which is one process, is to have more than one.
    """
    if gpus > 1:
        raise PlanRefused(
            f"a worker trains on one GPU, and {gpus} are asked for.\n    Write --gpus 1: the machine's other GPUs do other tasks at the "
            "same time. One task over several is what a pod does: `python -m trainer DIGEST --store URL --gpus 8`"
        )
    there = visible_gpus()
    shared = workers or len(there)
    if not shared or shared > len(there):
        raise PlanRefused(
            f"{max(1, shared)} workers with a GPU each need {max(1, shared)}; this machine shows {len(there)}.\n"
            "    Ask for fewer (--workers), or look at CUDA_VISIBLE_DEVICES"
        )
    return [(device,) for device in there[:shared]]


@dataclass
class Crew:
    """The workers of one run: at most `limit`, started when there is a task for them, replaced when they die.

    `devices`: the GPUs of each worker that can be at work at once; empty when they use none.
    """

    command: Sequence[str]
    extra: Mapping[str, str]
    logs: Path
    limit: int
    devices: Sequence[tuple[str, ...]] = ()
    workers: list[Worker] = field(default_factory=list)
    _hired: int = 0
    _early_deaths: int = 0

    def idle(self) -> Worker | None:
        return next((worker for worker in self.workers if not worker.task), None)

    def has_room(self) -> bool:
        """Whether one more task could be given to somebody."""
        return len(self.workers) < self.limit or self.idle() is not None

    def hire(self, inbox: Inbox) -> Worker:
        self._hired += 1
        taken = {worker.devices for worker in self.workers}
        devices = next((each for each in self.devices if each not in taken), ())
        extra = {**self.extra, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
        worker = start_worker(self._hired, self.command, extra, self.logs / f"worker-{self._hired}.log", inbox)
        worker.devices = devices
        self.workers.append(worker)
        return worker

    def note_ready(self, worker: Worker) -> None:
        worker.is_ready = True
        self._early_deaths = 0

    def bury(self, worker: Worker, code: int, *, is_expected: bool) -> None:
        """Its process is gone. Raises ScalingStudyError when one after the other dies before it is ready: the installation is broken."""
        self.workers.remove(worker)
        worker.dismiss()
        if worker.is_ready or is_expected:
            return
        self._early_deaths += 1
        if self._early_deaths >= DEATHS_AT_THE_START:
            raise ScalingStudyError(
                f"{self._early_deaths} workers in a row died before they were ready (exit code {code}). The last one wrote to "
                f"{worker.log}:\n{worker.last_words()}\nTry it by hand: {shlex.join(self.command)}"
            )

    def leave(self) -> None:
        """No process outlives the run: idle workers leave, one still at work (the run itself failed) writes a checkpoint first."""
        for worker in self.workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + LEAVE
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
                inbox.put((worker, Stray(line.rstrip())))
    code = worker.process.wait()
    inbox.put((worker, Gone(code if code >= 0 else 128 - code)))


@dataclass
class StopRequest:
    """How often a person has asked to stop: once is politely, twice is at once. Wakes the run that waits on `inbox`."""

    times: int = 0
    inbox: Inbox = field(default_factory=queue.SimpleQueue)

    def ask(self) -> None:
        self.times += 1
        self.inbox.put((None, None))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal count as asking, inside the block."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.ask()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
