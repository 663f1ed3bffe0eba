"""`python -m orchestrator.tracking`: the mirror's process beside a local run, started by `beside.Beside`. Leaves when its input closes.

MLflow's address comes in the environment.
"""

import argparse
import os
import select
import sys
import time
from typing import Final

from orchestrator.errors import ScalingStudyError, TrackingUnavailable
from orchestrator.store import open_store
from orchestrator.tracking.beside import NICE, URI_VARIABLE, artifacts_folder
from orchestrator.tracking.follow import follow

# Seconds between two looks: live enough for a curve, and a small part of one core.
INTERVAL: Final = 5.0
# After the run's end: between two tries of a last look that fails, and until it leaves all the same. One that is slow may take longer:
# how long the run waits is its own affair.
PAUSE: Final = 0.5
GIVE_UP: Final = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.tracking")
    for flag in ("--store", "--study"):
        parser.add_argument(flag, required=True)
    given = parser.parse_args()
    uri = os.environ[URI_VARIABLE]
    os.nice(NICE)
    store = open_store(given.store)
    try:
        artifacts = artifacts_folder(store, given.study, uri)
        return 0 if follow(store, given.study, uri, artifacts, _Pipe().wait, _say, until_done=False) else 1
    except ScalingStudyError as problem:
        _say(str(problem))
        return 1


class _Pipe:
    """Our input: the run at its other end says nothing, and is over when it closes."""

    def __init__(self) -> None:
        self._closed_at: float | None = None

    def wait(self) -> bool:
        """Sleeps until the next look; whether the run is over. Gives up when the last look does not succeed for too long."""
        if self._closed_at is None and select.select([0], [], [], INTERVAL)[0] and not os.read(0, 1):
            self._closed_at = time.monotonic()
        elif self._closed_at is not None:
            time.sleep(PAUSE)
            if time.monotonic() - self._closed_at > GIVE_UP:
                raise TrackingUnavailable(f"MLflow did not answer within {GIVE_UP:.0f} s of the run's end")
        return self._closed_at is not None


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
