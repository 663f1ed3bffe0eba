"""Start the ranks of a task on this node and return their exit code: one process per GPU, or `--ranks` processes.

`__main__` calls it for tasks that need more than one process. The ranks use torchrun's environment variables (RANK, WORLD_SIZE,
MASTER_ADDR ...), so torchrun can start them too. This launcher replaces torchrun because it must preserve the exit code (torchrun exits
with 1 whatever its workers exit with), and because a checkpoint at SIGTERM may take longer than torchrun's grace period. With several
nodes, each node runs a launcher. MASTER_ADDR then names the node of rank 0; NODE_RANK, or the completion index of a Kubernetes Job,
identifies this node.
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
"""Port on which rank 0 waits for the ranks of other nodes."""
FAILURE_GRACE_SECONDS: Final = 60.0
"""Time the other ranks have to exit after one has failed. They notice it at their next all-reduce."""
EXIT_GRACE_SECONDS: Final = 10.0
"""Time the other ranks have to exit after the first rank of the node. If the task is done or held, waiting ranks must free their GPUs."""
SIGNALLED: Final = 128
"""Added by shells to a signal number to form the exit code of a process ended by that signal."""
_POLL_SECONDS: Final = 0.1


def is_needed(placement: Placement) -> bool:
    """Return whether this process has to start ranks, that is, is not a rank itself."""
    return placement.world_size > 1 and "RANK" not in os.environ


def launch(arguments: Sequence[str], placement: Placement) -> int:
    """Run `python -m trainer ARGUMENTS` once per rank and return the exit code of the node.

    This is the exit code of rank 0, or of the rank whose failure ended the others.

    Raises TaskRefused if there are several nodes and the environment does not identify this one.
    """
    return Launcher(_environments(placement), [sys.executable, "-m", "trainer", *arguments]).run()


def _environments(placement: Placement) -> list[dict[str, str]]:
    """Return the environment variables of each rank of this node."""
    ranks, node = placement.ranks_per_node, _node(placement)
    address, port = _master_address(placement)
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
    index = os.environ.get("NODE_RANK", os.environ.get("JOB_COMPLETION_INDEX", ""))
    if not index.isdecimal() or int(index) >= placement.nodes:
        raise TaskRefused(f"--nodes {placement.nodes}: NODE_RANK must be this node's index, 0 to {placement.nodes - 1}, not {index!r}")
    return int(index)


def _master_address(placement: Placement) -> tuple[str, int]:
    if placement.nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", int(free.getsockname()[1])
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise TaskRefused(f"--nodes {placement.nodes}: MASTER_ADDR must name the host of node 0")
    return address, int(os.environ.get("MASTER_PORT", str(PORT)))


class Launcher:
    """The ranks of this node. The first one determines the exit code of the node; on node 0 it is rank 0.

    `environments`: variables of each rank, added to the environment of this process. `failure_grace_seconds`, `exit_grace_seconds`: time
    the other ranks have to exit by themselves after one has failed, or after the first has exited.
    """

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        command: Sequence[str],
        failure_grace_seconds: float = FAILURE_GRACE_SECONDS,
        exit_grace_seconds: float = EXIT_GRACE_SECONDS,
    ) -> None:
        self._environments = environments
        self._command = list(command)
        self._failure_grace_seconds = failure_grace_seconds
        self._exit_grace_seconds = exit_grace_seconds
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._stop_requested = False
        self._first_failure = 0

    def run(self) -> int:
        """Start the ranks, wait for all of them and return the exit code of the node."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward_stop)
        self._ranks = [subprocess.Popen(self._command, env={**os.environ, **more}) for more in self._environments]
        if self._stop_requested:  # the signal came while ranks were being started
            self._send(signal.SIGTERM)
        end_by = float("inf")
        while None in [rank.poll() for rank in self._ranks]:  # polls every rank, because poll sets returncode
            end_by = min(end_by, time.monotonic() + self._remaining_seconds())
            if time.monotonic() > end_by:
                self._send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        self._has_failed()
        return self._code()

    def _remaining_seconds(self) -> float:
        """Return the time that the running ranks have left, in seconds."""
        has_failed = self._has_failed()
        if self._ranks[0].returncode is not None:
            return self._exit_grace_seconds
        return self._failure_grace_seconds if has_failed else float("inf")

    def _has_failed(self) -> bool:
        """Return whether a rank has failed, and remember the first failure."""
        codes = [_shell_code(rank.returncode) for rank in self._ranks if rank.returncode is not None]
        failed = [code for code in codes if code not in (ExitCode.DONE, ExitCode.STOPPED)]
        if failed and not self._first_failure:
            self._first_failure = failed[0]
        return bool(failed)

    def _code(self) -> int:
        """Return the code of the first rank, or of the failed rank that made it stop: that code decides about a retry."""
        first = _shell_code(self._ranks[0].returncode)
        is_final = first != ExitCode.STOPPED and first <= SIGNALLED
        return first if is_final or not self._first_failure or self._stop_requested else self._first_failure

    def _forward_stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stop_requested = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(number)


def _shell_code(code: int) -> int:
    """Return the exit code as shells and Kubernetes report it: 137 for a process killed by signal 9."""
    return SIGNALLED - code if code < 0 else code
