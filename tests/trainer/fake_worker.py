"""A worker whose tasks do nothing but last, to test the protocol.

`slow` until stopped, `deaf` for ever, `quick`, `noisy`, `forks`; a task called by a number ends with it.
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
    if digest == "noisy":
        print("a library prints")
        subprocess.run(["echo", "a child prints"], check=True)
    if digest == "forks":
        _outlive_a_child()
    done = 0
    while digest == "deaf" or (digest == "slow" and not stop()):
        done += 1
        emit(Progress(digest, done, 1_000_000, "tokens", 1 / done))
        time.sleep(0.01)
    code = ExitCode.STOPPED if stop() else ExitCode(int(digest)) if digest.isdecimal() else ExitCode.DONE
    emit(End(digest, int(code), f"run {placement.run_number}"))
    return code


def _outlive_a_child() -> None:
    """A child of a pool dies of the SIGTERM that its pool sends, and does not take it for a wish to stop."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, b".")
        for _ in range(6000):  # a signal that comes just before a sleep is only seen after it
            time.sleep(0.01)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


if __name__ == "__main__":
    sys.exit(worker.serve(in_memory_store(), run, lambda: None))
