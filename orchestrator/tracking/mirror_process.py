"""The address of a study's mirror, and the process that mirrors a local run.

The process is separate, so that a slow server, mlflow's import and its database do not delay the run. Its stdin is a pipe from
the run: when the pipe closes, however the run ended, the process mirrors once more and exits.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.store import Store

# lower priority than the workers, which share the cores
NICE: Final = 10
URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
"""MLflow's own variable. The mirror's process gets the address there, since other users can read command lines."""

_PASSWORD: Final = re.compile(r"(://[^/@:\s]*):[^/\s]*@")


def local_folder(store: Store, study: str) -> Path:
    """Return the folder for logs and reports of a local run: the store's folder, or ./`<study>.local` if the store is a bucket."""
    inside = store.objects.local_path("mlflow.db")
    return inside.parent if inside is not None else Path.cwd() / f"{study}.local"


def default_uri(store: Store, study: str) -> str:
    """Return the address of the SQLite file of a local run (MLflow 3 has no plain-file store)."""
    return f"sqlite:///{local_folder(store, study) / 'mlflow.db'}"


def tracking_uri(store: Store, study: str, given: str = "") -> str:
    """Return the address to mirror to: the given one, else MLFLOW_TRACKING_URI, else the local default."""
    return given or os.environ.get(URI_VARIABLE, "") or default_uri(store, study)


def masked(text: str) -> str:
    """Replace the password of every address (`http://user:password@host`) in `text` by `***`."""
    return _PASSWORD.sub(r"\1:***@", text)


def artifacts_folder(store: Store, study: str, uri: str) -> Path | None:
    """Return the artifact folder for an experiment in the local SQLite file, None for a server."""
    return local_folder(store, study).absolute() / "mlartifacts" if uri == default_uri(store, study) else None


def ui_command(uri: str) -> str:
    """Return the command that shows the mirror, or the server's address, without passwords."""
    if uri.startswith(("http://", "https://")):
        return masked(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(masked(uri))}"


def repair_command(store: Store, study: str, uri: str) -> str:
    """Return the command that updates the mirror from the store, without passwords."""
    option = "" if uri == default_uri(store, study) else f" --uri {shlex.quote(masked(uri))}"
    return f"scaling-study tracking mirror {shlex.quote(study)} --store {shlex.quote(store.url)}{option}"


def command_of(store: Store, study: str) -> list[str]:
    """Return the command line of the mirror's process. The address is not in it, since it may hold a password."""
    return [sys.executable, "-m", "orchestrator.tracking", "--store", store.url, "--study", study]


def environment_of(uri: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the mirror's process: `inherited`, with the mirror's address in MLflow's variable."""
    return {**inherited, URI_VARIABLE: uri}


class MirrorProcess:
    """The process that mirrors a local run. Never raises for MLflow errors; `finish` and `last_message` report them."""

    def __init__(self, store: Store, study: str, uri: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.uri = uri
        self._timed_out_after: float | None = None
        with log.open("w") as out:
            self._process = subprocess.Popen(
                command_of(store, study),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment_of(uri, os.environ),
            )

    def request_last_update(self) -> None:
        """Ask the process to mirror once more and exit. Does not wait."""
        if self._process.stdin:
            self._process.stdin.close()

    def finish(self, seconds: float) -> bool:
        """Wait for the last update for at most `seconds`, and return whether the mirror is complete."""
        self.request_last_update()
        try:
            return self._process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self._timed_out_after = seconds
            self._process.kill()
            self._process.wait()
            return False

    def last_message(self) -> str:
        """Return why the last update is incomplete: whether it timed out, and the last message of the log."""
        message = last_message_of(self.log.read_text(errors="replace"))
        if self._timed_out_after is not None:
            slow = f"the last update timed out after {self._timed_out_after:.0f} s, because MLflow or its database is slow"
            return f"{slow}; last message: {message}" if message else slow
        return message or f"no message in {self.log}; the disk may be full, or the process was killed"


def last_message_of(log: str) -> str:
    """Return the last message of a log, without passwords. On a full disk, a log can end inside a traceback, or be empty."""
    messages = [line for line in masked(log).splitlines() if line.strip() and not line.startswith((" ", "Traceback"))]
    return messages[-1] if messages else ""
