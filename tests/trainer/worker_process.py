"""Start and observe worker processes: pipes, events, signals and exit codes."""

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from orchestrator.contract.events import End, Event, Placement, Progress, Ready, Request, read_event, to_line

FOLDER = Path(__file__).parent
FAKE_WORKER = (sys.executable, str(FOLDER / "fake_worker.py"))


class Process(Protocol):
    """The methods of `subprocess.Popen` that a worker uses."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[str] | None: ...
    @property
    def stdout(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class WorkerProcess:
    """A worker process with the requests to it and the events from it. `stderr`: the file that it writes its stderr to."""

    def __init__(self, process: Process, stderr: IO[bytes]) -> None:
        self.process = process
        self._stderr = stderr

    def request(self, digest: str, placement: Placement | None = None) -> None:
        self.send_line(to_line(Request(digest, placement or Placement())))

    def send_line(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def events(self) -> Iterator[Event]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield read_event(line)

    def read_until(self, condition: Callable[[Event], bool]) -> list[Event]:
        """Return the events up to the first that meets the condition. Raises AssertionError if stdout ends before."""
        events = []
        for event in self.events():
            events.append(event)
            if condition(event):
                return events
        raise AssertionError(f"the worker exited after {events[-3:]}: {self.stderr()}")

    def read_until_ready(self) -> None:
        self.read_until(lambda event: isinstance(event, Ready))

    def read_until_end(self) -> End:
        end = self.read_until(lambda event: isinstance(event, End))[-1]
        assert isinstance(end, End)
        return end

    def read_until_progress(self, done: int = 1) -> None:
        self.read_until(lambda event: isinstance(event, Progress) and event.done >= done)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def exit_code(self) -> int:
        """Wait for the process and return its exit code; unread events are discarded."""
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait()

    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@contextmanager
def worker_process(command: Sequence[str]) -> Iterator[WorkerProcess]:
    """Start `command` in a session of its own. It is killed at the end of the context."""
    with tempfile.TemporaryFile() as stderr:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, start_new_session=True)
        worker = WorkerProcess(process, stderr)
        try:
            yield worker
        finally:
            worker.close()


class ForkedProcess:
    """A process started by `ForkServer`, with the interface of `subprocess.Popen`.

    `status`: unbuffered pipe with one line for the pid and, once the process has ended, one for the exit code.
    """

    def __init__(self, stdin: IO[str], stdout: IO[str], status: io.FileIO) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.pid = int(status.readline())
        self._status = status
        self._code: int | None = None

    def poll(self) -> int | None:
        ended = self._code is not None or bool(select.select([self._status], [], [], 0)[0])
        return self.wait() if ended else None

    def wait(self) -> int:
        if self._code is None:
            with self._status:
                self._code = int(self._status.readline())
        return self._code


class ForkServer:
    """Starts real trainer processes by forking one that has imported torch. See `fork_server.py`."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(FOLDER / "fork_server.py")]
            self._server = subprocess.Popen(command, stdin=theirs.fileno(), env=environment, start_new_session=True)

    @contextmanager
    def trainer(self, *arguments: str) -> Iterator[WorkerProcess]:
        """Start `python -m trainer ARGUMENTS`. The process is killed at the end of the context."""
        with tempfile.TemporaryFile() as stderr:
            (their_stdin, stdin), (stdout, their_stdout), (status, their_status) = os.pipe(), os.pipe(), os.pipe()
            theirs = [their_stdin, their_stdout, stderr.fileno(), their_status]
            socket.send_fds(self._requests, [json.dumps(arguments).encode()], theirs)
            for descriptor in (their_stdin, their_stdout, their_status):
                os.close(descriptor)
            worker = WorkerProcess(ForkedProcess(os.fdopen(stdin, "w"), os.fdopen(stdout), io.FileIO(status)), stderr)
            try:
                yield worker
            finally:
                worker.close()

    def worker(self, store: str) -> AbstractContextManager[WorkerProcess]:
        return self.trainer("worker", "--store", store)

    def close(self) -> None:
        self._requests.close()
        self._server.wait()
