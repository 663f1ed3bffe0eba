"""Start and finish the MLflow mirror of a run. A run does not fail if its mirror does."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from orchestrator.store import Store
from orchestrator.tracking.mirror_process import MirrorProcess, local_folder, masked, repair_command, tracking_uri, ui_command

# Seconds to wait for the last update at the end of a run: a database on a busy machine needs some; a stopped run waits less
SECONDS: Final = 30.0
SECONDS_STOPPED: Final = 10.0


def start_mirror(store: Store, study: str, uri: str, say: Callable[[str], None] = print) -> MirrorProcess | None:
    """Start the process that mirrors to MLflow; return None if it cannot start."""
    if find_spec("mlflow") is None:
        say("MLflow is not installed, so nothing is mirrored: pip install 'scaling-study[local]', then scaling-study tracking mirror")
        return None
    log = local_folder(store, study) / "logs" / "tracking.log"
    try:
        return MirrorProcess(store, study, tracking_uri(store, study, uri), log)
    except OSError as problem:
        say(f"Nothing is mirrored to MLflow: {problem}")
        return None


def finish_mirror(mirror: MirrorProcess, store: Store, study: str, was_stopped: bool, say: Callable[[str], None] = print) -> None:
    """Wait for the last update; say where the mirror is, or how to repair it."""
    if mirror.finish(SECONDS_STOPPED if was_stopped else SECONDS):
        say(f"MLflow: {ui_command(mirror.uri)}")
    else:
        say(f"MLflow at {masked(mirror.uri)} is not up to date ({mirror.last_message()}). No results are lost. To update it:")
        say(f"  {repair_command(store, study, mirror.uri)}")
