"""Identify this process, and detect whether another process of this machine still runs.

Used by `leases`: a process that was killed cannot release its lease.
"""

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """A machine since its last boot. `boot` includes the pid namespace, since a pid is valid only in its own namespace."""

    name: str
    boot: str


@cache
def current_host() -> Host:
    """Return this machine and pid namespace."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Host(socket.gethostname(), f"{boot_id}/{Path('/proc/self/ns/pid').readlink()}")
    except OSError:
        return Host(socket.gethostname(), f"{uuid.getnode():x}")


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; 0 if unknown on this system, -1 for no process or a zombie."""
    if not Path("/proc/self/stat").exists():
        return 0 if _exists(pid) else -1
    try:
        # the name, in parentheses, may hold spaces; state is the 3rd field, the start time the 22nd (man proc_pid_stat)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
