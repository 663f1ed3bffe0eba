"""Fork trainer processes from one process that has imported torch: that import takes seconds, a fork takes milliseconds.

`worker_process.ForkServer` starts this program with a Unix socket as stdin. A request has the arguments of `python -m trainer` as JSON
and four file descriptors: stdin, stdout and stderr of the process, and a pipe. The pid of the process and, at its end, its exit code are
written to the pipe, one per line. The program exits when the socket is closed. The ranks of a launcher are forked too.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from trainer.__main__ import main
from trainer.attempt import launch
from trainer.attempt.perform import load


def serve(requests: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 65536, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            supervise(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def supervise(arguments: list[str], stdin: int, stdout: int, stderr: int, status: int) -> None:
    """Fork the trainer, report its pid and exit code to `status`, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    trainer = os.fork()
    if trainer == 0:
        os.close(status)
        os.setsid()
        for number, descriptor in enumerate((stdin, stdout, stderr)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        run(arguments)
    for descriptor in (stdin, stdout, stderr):
        os.close(descriptor)
    os.write(status, f"{trainer}\n".encode())
    _, ended = os.waitpid(trainer, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


def run(arguments: Sequence[str]) -> None:
    """Run the command line and exit with its code."""
    code = main(list(arguments))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in `python -m trainer`
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkedRank:
    """A rank that the launcher forks instead of starting `python -m trainer`, with the interface of `subprocess.Popen`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.environ.update(env)
            run(command[command.index("trainer") + 1 :])

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, ended = os.waitpid(self._pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(ended) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self._pid, number)


def preload() -> None:
    """Import what a process needs, including what its first optimizer step and its first table of metrics import."""
    load()
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch._dynamo  # noqa: F401


if __name__ == "__main__":
    preload()
    vars(launch)["subprocess"] = SimpleNamespace(Popen=ForkedRank)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors leave no zombies
    serve(socket.socket(fileno=os.dup(0)))
    os._exit(0)  # without the seconds that torch takes to shut down
