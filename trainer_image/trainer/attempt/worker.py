"""Run one task after the other in one process, because importing torch takes seconds.

The parent (`orchestrator.local`) writes requests as JSON lines to stdin and reads events from stdout (`contract.events`). Stdout is
reserved for events: output of libraries is redirected to stderr. On SIGTERM, SIGINT, the end of stdin or the death of its parent, the
worker finishes the step, writes a checkpoint, sends `end` with 75 and exits. On a second SIGINT it exits at once. At the end of stdin an
idle worker exits with 0.

A task that failed on a GPU may have corrupted the CUDA context of this process, in which every later task would fail too. The worker
then exits and the parent starts another one. It exits with 75, so that a task requested in the meantime is requested again.
"""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from orchestrator.contract.events import Event, Placement, Ready, Request, read_request, to_line
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import ContractError
from orchestrator.store import Store

# Interval at which an idle worker checks that its parent is alive
IDLE_SECONDS: Final = 2.0


class StopRequest:
    """Callable that returns whether this process must stop: after a signal, the end of its input, or the death of its parent.

    `with_parent`: the death of the parent process is a stop request. `wake` is called from the signal handler.
    """

    def __init__(self, *, with_parent: bool, wake: Callable[[], None] = lambda: None) -> None:
        self._asked = False
        self._has_input = True
        self._interrupts = 0
        self._process = os.getpid()
        self._parent = os.getppid() if with_parent else None
        self._wake = wake

    def install(self) -> None:
        """Install handlers that turn SIGTERM and SIGINT into stop requests."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def ask(self) -> None:
        self._asked = True
        self._wake()

    def end_input(self) -> None:
        """Stop the running task: the parent closed the pipe or is gone."""
        self._has_input = False
        self._wake()

    def is_asked(self) -> bool:
        """Return whether a signal or the death of the parent, rather than the end of input, is the reason to stop."""
        if self._parent is not None and os.getppid() != self._parent:
            self._asked = True
        return self._asked

    def __call__(self) -> bool:
        return self.is_asked() or not self._has_input

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:  # a forked child, of a pool for example, keeps the default behaviour
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(128 + number)  # Ctrl-C twice: exit at once; the last checkpoint is safe
        self.ask()


class EventPipe:
    """Stdout reserved for events: `print` and C libraries write to stderr from now on."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: Event) -> None:
        """Write one event. A closed pipe means that the parent is gone and is a stop request."""
        rest = f"{to_line(event)}\n".encode()
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._stop.ask()


def serve(
    store: Store, run: Callable[[Store, str, Placement, Callable[[Event], None], StopRequest], ExitCode], load: Callable[[], None]
) -> int:
    """Serve requests until the parent closes stdin or asks to stop, and return the exit code of the process.

    `run` performs one task (`perform.run_task`), `load` imports the modules it needs.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stop = StopRequest(with_parent=True, wake=lambda: lines.put(None))
    stop.install()
    events = EventPipe(stop)
    threading.Thread(target=_read_lines, args=(0, lines, stop), name="requests", daemon=True).start()
    load()
    events.send(Ready())
    code = ExitCode.DONE
    while (line := _next(lines, stop)) is not None:
        try:
            request: Request = read_request(line)
        except ContractError as problem:
            print(f"worker: {problem}", file=sys.stderr)
            return int(ExitCode.FAILED)
        code = run(store, request.run, request.placement, events.send, stop)
        if request.placement.gpus and code in (ExitCode.FAILED, ExitCode.REFUSED):  # the last allowed failure is REFUSED
            return int(ExitCode.STOPPED)
    return int(ExitCode.STOPPED if stop.is_asked() or code == ExitCode.STOPPED or _has_request(lines) else ExitCode.DONE)


def _next(lines: "queue.SimpleQueue[str | None]", stop: StopRequest) -> str | None:
    while not stop():
        try:
            return lines.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            continue
    return None


def _has_request(lines: "queue.SimpleQueue[str | None]") -> bool:
    while not lines.empty():
        if lines.get() is not None:
            return True
    return False


def _read_lines(descriptor: int, lines: "queue.SimpleQueue[str | None]", stop: StopRequest) -> None:
    """Put the lines of a file descriptor into a queue; its end is a stop request.

    sys.stdin is not used: its lock would be held at interpreter shutdown.
    """
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                lines.put(line.decode(errors="replace"))
    stop.end_input()
