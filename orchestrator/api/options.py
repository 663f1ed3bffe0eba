"""Options of a run, and the address and credentials of an Argo Server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

# receives the messages of a run, one call per message
Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a study runs on this machine.

    `store`: address of the store, by default the study file's. `out`: folder of the report, by default beside the results. `workers`:
    worker processes, 0 for one per core or GPU. `only`: names of cells or patterns, empty for all. `replan`: plan again even if the files
    of a source have changed. `threads`: per worker; another number changes the last bits of results. `gpus`: 1 for a GPU per worker, 0 for
    the CPU. `checkpoint_seconds`: interval between checkpoints of a task. `tracking`: mirror to MLflow at `tracking_uri`, by default
    MLFLOW_TRACKING_URI or an SQLite file beside the results. `plain`: print plain lines on a terminal, too.
    """

    store: str | None = None
    out: Path | None = None
    workers: int = 0
    only: Sequence[str] = ()
    replan: bool = False
    threads: int = 1
    gpus: int = 0
    checkpoint_seconds: int = 60
    tracking: bool = True
    tracking_uri: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class ArgoServer:
    """Address, namespace and credentials of an Argo Server.

    `token`: bearer token. `token_file`: file with the token, read before every request; takes precedence over `token`. `ca_file`: CA
    certificate that signed the server's. `insecure`: skip TLS certificate verification.
    """

    url: str
    namespace: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRunOptions:
    """How a study runs through an Argo Server. `logs`: print the pods' logs. The other fields are those of `RunOptions`."""

    store: str | None = None
    out: Path | None = None
    tracking: bool = True
    tracking_uri: str = ""
    plain: bool = False
    logs: bool = False
