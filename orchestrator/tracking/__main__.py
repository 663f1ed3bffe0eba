"""`python -m orchestrator.tracking`: mirror a local run until stdin closes. Started by `mirror_process.MirrorProcess`.

MLflow's address is read from the environment.
"""

import argparse
import os
import select
import sys
from contextlib import suppress
from typing import Final

from orchestrator.errors import ScalingStudyError
from orchestrator.store import open_store
from orchestrator.tracking.follow import LastAttempts, follow
from orchestrator.tracking.mirror_process import NICE, URI_VARIABLE, artifacts_folder

# seconds between two updates: live curves at a small share of one core
INTERVAL: Final = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking")
    for flag in ("--store", "--study"):
        parser.add_argument(flag, required=True)
    given = parser.parse_args()
    uri = os.environ[URI_VARIABLE]
    os.nice(NICE)
    try:
        store = open_store(given.store)
        artifacts = artifacts_folder(store, given.study, uri)
        return 0 if follow(store, given.study, uri, artifacts, _Pipe().wait, _say, until_done=False) else 1
    except (ScalingStudyError, OSError) as problem:
        with suppress(OSError):  # the disk of the log is full
            _say(str(problem))
        return 1


class _Pipe:
    """The process's stdin, which closes when the run ends."""

    def __init__(self) -> None:
        self._is_closed = False
        self._tries = LastAttempts("the run's end")

    def wait(self) -> bool:
        """Sleep until the next update; return whether the run has ended. Raises TrackingUnavailable if last updates keep failing."""
        if not self._is_closed and select.select([0], [], [], INTERVAL)[0] and not os.read(0, 1):
            self._is_closed = True
        return self._is_closed and self._tries.another()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
