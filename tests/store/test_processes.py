"""A process is known by pid and start time, so that a pid that is used again is another process."""

import os
import subprocess
import sys

from orchestrator.store.processes import here, started


def test_this_process_lives_and_started_once() -> None:
    assert started(os.getpid()) == started(os.getpid()) >= 0


def test_a_process_that_has_ended_is_gone_even_while_nobody_has_waited_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert started(process.pid) >= 0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert started(process.pid) == -1
    assert started(process.pid) == -1


def test_this_machine_is_itself() -> None:
    assert here() == here()
    assert here().name
    assert here().boot
