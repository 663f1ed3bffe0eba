"""A real worker process as its parent sees it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.contract.events import End, Event, Placement, Progress, Ready, Request, read_event, to_line

SLOW_WORKER = (sys.executable, str(Path(__file__).with_name("slow_worker.py")))


class WorkerProcess:
    """`events` come one by one from its stdout; what it writes to stderr is in `complaints()`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, start_new_session=True
        )

    def ask(self, digest: str, placement: Placement | None = None) -> None:
        self.say(to_line(Request(digest, placement or Placement())))

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def leave_alone(self) -> None:
        """End of its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def events(self) -> Iterator[Event]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield read_event(line)

    def until(self, met: Callable[[Event], bool]) -> list[Event]:
        """Events up to the first that is `met`. Fails when it says no more."""
        seen = []
        for event in self.events():
            seen.append(event)
            if met(event):
                return seen
        raise AssertionError(f"the worker left after {seen[-3:]}: {self.complaints()}")

    def until_ready(self) -> None:
        self.until(lambda event: isinstance(event, Ready))

    def until_end(self) -> End:
        end = self.until(lambda event: isinstance(event, End))[-1]
        assert isinstance(end, End)
        return end

    def until_progress(self, done: int = 1) -> None:
        self.until(lambda event: isinstance(event, Progress) and event.done >= done)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def left_with(self) -> int:
        """Its exit code, after whatever it still has to say."""
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait()

    def complaints(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self._stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@contextmanager
def worker_process(command: Sequence[str]) -> Iterator[WorkerProcess]:
    """Starts `command`; whatever happens, it is gone afterwards."""
    worker = WorkerProcess(command)
    try:
        yield worker
    finally:
        worker.close()


def trainer_worker(store: str) -> tuple[str, ...]:
    """The command line of a real worker."""
    return (sys.executable, "-m", "trainer", "worker", "--store", store)
