"""Starts the ranks of a task on this node and carries their end over: one process a GPU, or as many as `--ranks` says.

`__main__` calls it when a task is to be done by more than one process. The ranks find each other by the names that torchrun gives
(RANK, WORLD_SIZE, MASTER_ADDR ...), so torchrun may start them too; this stands in its place because an exit code has to come through as
it is (torchrun ends with 1 whatever its workers end with) and because a checkpoint at SIGTERM may take longer than the seconds that it
gives them. On several nodes each has a launcher; MASTER_ADDR then names the node of rank 0, and NODE_RANK, or the index that a Kubernetes
Job gives its pods, which of them this is.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import TaskRefused

PORT: Final = 29400
"""Where rank 0 waits for ranks of other nodes."""
GRIEF_SECONDS: Final = 60.0
"""So long after one rank has gone the others may still be there; they learn of it at their next sum, and leave."""
PARTING_SECONDS: Final = 10.0
"""So long after the rank that speaks has ended: a task that is done or held already keeps the GPUs of those who wait for it no longer."""
SIGNALLED: Final = 128
"""What shells add to the number of the signal that ended a process."""
_LOOK_SECONDS: Final = 0.1


def is_needed(placement: Placement) -> bool:
    """Whether this process is to start ranks, and is not one itself."""
    return placement.world_size > 1 and "RANK" not in os.environ


def launch(arguments: Sequence[str], placement: Placement) -> int:
    """Run `python -m trainer ARGUMENTS` once a rank; the exit code of rank 0, or of the rank whose end ended the others.

    Raises TaskRefused when this is one of several nodes and the environment does not say which.
    """
    return Launcher(_environments(placement), [sys.executable, "-m", "trainer", *arguments]).run()


def _environments(placement: Placement) -> list[dict[str, str]]:
    """What each rank of this node is told."""
    ranks, node = placement.ranks_per_node, _node(placement)
    address, port = _meeting_point(placement)
    return [
        {
            "RANK": str(node * ranks + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(placement.world_size),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
        }
        for local in range(ranks)
    ]


def _node(placement: Placement) -> int:
    if placement.nodes == 1:
        return 0
    told = os.environ.get("NODE_RANK", os.environ.get("JOB_COMPLETION_INDEX", ""))
    if not told.isdecimal() or int(told) >= placement.nodes:
        raise TaskRefused(f"--nodes {placement.nodes}: NODE_RANK must say which of them this is, from 0; it is {told!r}")
    return int(told)


def _meeting_point(placement: Placement) -> tuple[str, int]:
    if placement.nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", int(free.getsockname()[1])
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise TaskRefused(f"--nodes {placement.nodes}: MASTER_ADDR must name the host of node 0")
    return address, int(os.environ.get("MASTER_PORT", str(PORT)))


class Launcher:
    """The ranks of this node. The first of them speaks for the node: on node 0 it is rank 0.

    `environments`: what each rank is told beside our own. `grief_seconds`, `parting_seconds`: when one is lost, or the first has ended, the
    others have so long to end by themselves.
    """

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        command: Sequence[str],
        grief_seconds: float = GRIEF_SECONDS,
        parting_seconds: float = PARTING_SECONDS,
    ) -> None:
        self._environments = environments
        self._command = list(command)
        self._grief_seconds = grief_seconds
        self._parting_seconds = parting_seconds
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._was_asked = False
        self._first_bad = 0

    def run(self) -> int:
        """Starts them and waits for all; the exit code of the node."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        self._ranks = [subprocess.Popen(self._command, env={**os.environ, **told}) for told in self._environments]
        if self._was_asked:  # while they were being started
            self._send(signal.SIGTERM)
        end_by = float("inf")
        while None in [rank.poll() for rank in self._ranks]:  # every one: what has ended is known of no other way
            end_by = min(end_by, time.monotonic() + self._patience())
            if time.monotonic() > end_by:
                self._send(signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
        self._has_lost_one()
        return self._code()

    def _patience(self) -> float:
        """Seconds for which the ranks that are left may go on."""
        has_lost_one = self._has_lost_one()
        if self._ranks[0].returncode is not None:
            return self._parting_seconds
        return self._grief_seconds if has_lost_one else float("inf")

    def _has_lost_one(self) -> bool:
        """Whether a rank has ended badly; the first bad end is kept."""
        codes = [_shell_code(rank.returncode) for rank in self._ranks if rank.returncode is not None]
        bad = [code for code in codes if code not in (ExitCode.DONE, ExitCode.STOPPED)]
        if bad and not self._first_bad:
            self._first_bad = bad[0]
        return bool(bad)

    def _code(self) -> int:
        """Rank 0 calls it a stop when another rank has gone, or is killed for it; why that one went says whether a retry may help."""
        spoken = _shell_code(self._ranks[0].returncode)
        is_told = spoken != ExitCode.STOPPED and spoken <= SIGNALLED
        return spoken if is_told or not self._first_bad or self._was_asked else self._first_bad

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._was_asked = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(number)


def _shell_code(code: int) -> int:
    """137 for a process that was killed with 9, as shells and Kubernetes count."""
    return SIGNALLED - code if code < 0 else code
