"""A worker without training, to test the protocol between a worker and its parent.

The digest of a task selects what it does: `wait` until stopped, `ignore-stop` forever, `quick`, `print`, `fork`; a number is its exit code.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from trainer.attempt import worker

from orchestrator.contract.events import End, Event, Placement, Progress, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.store import Store
from orchestrator.store.memory import in_memory_store


def run(store: Store, digest: str, placement: Placement, emit: Callable[[Event], None], stop: Callable[[], bool]) -> ExitCode:
    del store
    emit(Start(digest, 1))
    if digest == "print":
        print("a library prints")
        subprocess.run(["echo", "a child prints"], check=True)
    if digest == "fork":
        _terminate_a_child()
    done = 0
    while digest == "ignore-stop" or (digest == "wait" and not stop()):
        done += 1
        emit(Progress(digest, done, 1_000_000, "tokens", 1 / done))
        time.sleep(0.01)
    code = ExitCode.STOPPED if stop() else ExitCode(int(digest)) if digest.isdecimal() else ExitCode.DONE
    emit(End(digest, int(code), f"run {placement.run_number}"))
    return code


def _terminate_a_child() -> None:
    """Fork a child, as a process pool does, and check that SIGTERM ends it: the handler of the worker must not apply to it."""
    ready, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # if SIGTERM does not end it
        os.write(write, b".")
        while True:
            time.sleep(0.01)  # short: the handler of a signal that comes just before a sleep runs after it
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


if __name__ == "__main__":
    sys.exit(worker.serve(in_memory_store(), run, lambda: None))
