"""Where the mirror of a study is, and the process that keeps it beside a local run.

A process of its own, so that a slow server, mlflow's import and its database cost the run nothing. Its input is the run's pipe: when that
closes, because the run has ended in whatever way, it takes one last look and leaves.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from orchestrator.store import Store

# Lower than the workers, whose cores it shares.
NICE: Final = 10
URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
"""MLflow's own. The mirror's process gets its address there too: anybody on the machine can read a command line."""

_PASSWORD: Final = re.compile(r"(://[^/@:\s]*):[^/\s]*@")


def local_folder(store: Store, study: str) -> Path:
    """Where a local run keeps what is no part of the store: the store's own folder, or `<study>.local` here when it is a bucket."""
    inside = store.objects.local_path("mlflow.db")
    return inside.parent if inside is not None else Path.cwd() / f"{study}.local"


def default_uri(store: Store, study: str) -> str:
    """The sqlite file of a local run; MLflow has no store of plain files any more."""
    return f"sqlite:///{local_folder(store, study) / 'mlflow.db'}"


def tracking_uri(store: Store, study: str, given: str = "") -> str:
    """Where to mirror to: what was asked for, else MLFLOW_TRACKING_URI, else the local default."""
    return given or os.environ.get(URI_VARIABLE, "") or default_uri(store, study)


def masked(text: str) -> str:
    """`text` for people: `***` instead of the password of every address in it, `http://user:password@host`."""
    return _PASSWORD.sub(r"\1:***@", text)


def artifacts_folder(store: Store, study: str, uri: str) -> Path | None:
    """For an experiment in our own sqlite file; a server has a place of its own."""
    return local_folder(store, study).absolute() / "mlartifacts" if uri == default_uri(store, study) else None


def ui_command(uri: str) -> str:
    """The line that shows the mirror, or the server's address; without its password."""
    if uri.startswith(("http://", "https://")):
        return masked(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(masked(uri))}"


def repair_command(store: Store, study: str, uri: str) -> str:
    """The line that brings the mirror up to date from the store; without its password."""
    told = "" if uri == default_uri(store, study) else f" --uri {shlex.quote(masked(uri))}"
    return f"scaling-study tracking mirror {shlex.quote(study)} --store {shlex.quote(store.url)}{told}"


class Beside:
    """The mirror's process. Nothing here raises when MLflow does not work: that is told at the end."""

    def __init__(self, store: Store, study: str, uri: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.uri = uri
        command = [sys.executable, "-m", "orchestrator.tracking", "--store", store.url, "--study", study]
        environment = {**os.environ, URI_VARIABLE: uri}
        with log.open("w") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True, env=environment
            )

    def last_look(self) -> None:
        """The run is over: one more look, and it leaves. Does not wait."""
        if self._process.stdin:
            self._process.stdin.close()

    def finish(self, seconds: float) -> bool:
        """Waits for the last look, for at most so long. Whether the mirror is whole."""
        self.last_look()
        try:
            return self._process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False

    def last_words(self) -> str:
        """The last line of its log that is for people: on a full disk a log may end in the middle of a traceback, or be empty."""
        lines = masked(self.log.read_text(errors="replace")).splitlines()
        told = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
        return told[-1] if told else f"it left no word in {self.log}; the disk may be full"
