"""One task after the other in one process, because importing torch takes seconds.

The parent (`orchestrator.local`) writes requests as JSON lines to stdin and reads events from stdout (`contract.events`). Stdout
belongs to the events alone: whatever a library prints goes to stderr. SIGTERM, SIGINT and the parent's death all mean: finish the
step, write a checkpoint, say `end` with 75, leave. A second SIGINT means: at once. End of stdin means: finish what was asked, leave.

A task that has failed on a GPU may have broken this process's CUDA context, in which every later task would fail too: then the worker
leaves of itself, and the parent starts another. It leaves with 75, so that a task which it was given meanwhile is asked for again.
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

# How often a worker without a task looks whether its parent is still there
IDLE_SECONDS: Final = 2.0


class StopRequest:
    """Whether this process was asked to stop: by a signal, or by the death of the parent that it works for.

    `with_parent`: the process belongs to a parent, whose death stops it. `wake` is called from the signal handler.
    """

    def __init__(self, *, with_parent: bool, wake: Callable[[], None] = lambda: None) -> None:
        self._asked = False
        self._interrupts = 0
        self._process = os.getpid()
        self._parent = os.getppid() if with_parent else None
        self._wake = wake

    def install(self) -> None:
        """From now on SIGTERM and SIGINT ask this process to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def ask(self) -> None:
        self._asked = True
        self._wake()

    def __call__(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            self._asked = True
        return self._asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:  # a child forked from us, of a pool for example, dies of its signals as anybody does
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(128 + number)  # a person pressed Ctrl-C twice: what the last checkpoint holds is safe
        self.ask()


class EventPipe:
    """Stdout, taken away from everybody else: print and C libraries write to stderr from now on."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: Event) -> None:
        """Write one event. A parent that no longer reads is a parent that has gone."""
        rest = f"{to_line(event)}\n".encode()
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self._stop.ask()


def serve(
    store: Store, run: Callable[[Store, str, Placement, Callable[[Event], None], StopRequest], ExitCode], load: Callable[[], None]
) -> int:
    """Answer requests until the parent closes stdin or asks to stop. Returns the process's exit code.

    `run` works on one task (`attempt.run_task`), `load` imports what it needs.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    stop = StopRequest(with_parent=True, wake=lambda: lines.put(None))
    stop.install()
    events = EventPipe(stop)
    threading.Thread(target=_read_lines, args=(0, lines), name="requests", daemon=True).start()
    load()
    events.send(Ready())
    while (line := _next(lines, stop)) is not None:
        try:
            request: Request = read_request(line)
        except ContractError as problem:
            print(f"worker: {problem}", file=sys.stderr)
            return int(ExitCode.FAILED)
        code = run(store, request.run, request.placement, events.send, stop)
        if request.placement.gpus and code in (ExitCode.FAILED, ExitCode.REFUSED):  # the third failure is called a refusal
            return int(ExitCode.STOPPED)
    return int(ExitCode.STOPPED if stop() else ExitCode.DONE)


def _next(lines: "queue.SimpleQueue[str | None]", stop: StopRequest) -> str | None:
    while not stop():
        try:
            return lines.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            continue
    return None


def _read_lines(descriptor: int, lines: "queue.SimpleQueue[str | None]") -> None:
    """Feed the lines of a file descriptor into a queue, then None. Not by sys.stdin: its lock would be held when Python leaves."""
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                lines.put(line.decode(errors="replace"))
    lines.put(None)
