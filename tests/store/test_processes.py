"""A process is identified by pid and start time, so that a reused pid is a different process."""

import os
import subprocess
import sys

from orchestrator.store.processes import current_host, start_time


def test_start_time_of_this_process_is_constant() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid()) >= 0


def test_ended_process_counts_as_dead_while_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert start_time(process.pid) >= 0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert start_time(process.pid) == -1
    assert start_time(process.pid) == -1


def test_this_machine_is_identified() -> None:
    assert current_host() == current_host()
    assert current_host().name
    assert current_host().boot
