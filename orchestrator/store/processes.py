"""Which process this is, and whether another one of this machine still lives: for leases, which a dead holder cannot give back."""

import os
import socket
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """A machine since its last boot. `boot` also tells pid namespaces apart: a pid means nothing in another one."""

    name: str
    boot: str


@cache
def here() -> Host:
    """This machine."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Host(socket.gethostname(), f"{boot_id}/{Path('/proc/self/ns/pid').readlink()}")
    except OSError:
        return Host(socket.gethostname(), f"{uuid.getnode():x}")


def started(pid: int) -> int:
    """When the process began, in clock ticks since boot; 0 where the system does not say, -1 for none or a zombie."""
    if not Path("/proc/self/stat").exists():
        return 0 if _answers(pid) else -1
    try:
        # the name, in parentheses, may hold spaces; state is the 3rd field, the start time the 22nd (man proc_pid_stat)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
