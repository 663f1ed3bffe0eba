"""Protocol between a worker process and its parent: requests as JSON lines on stdin, events as JSON lines on stdout.

    parent -> worker   {"run": "<digest>", "placement": {...}}      one task at a time; end of file: exit
    worker -> parent   {"event": "ready"}                            torch is imported
                       {"event": "start", "digest": ..., "attempt": 7, "from_tokens": 0}
                       {"event": "progress", "digest": ..., "done": 204800, "total": 524288, "unit": "tokens", "loss": 3.1}
                       {"event": "end", "digest": ..., "code": 0, "message": ""}

On SIGTERM, a worker finishes the step, writes a checkpoint, sends `end` with code 75 and exits.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

from orchestrator.errors import ContractError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a task runs. No field may change a result; each field is a flag of `python -m trainer`.

    `inputs`: source fingerprint -> its files, folders or patterns (URLs or paths); for a tokenizer file, `file:<sha256>` -> its path.
    `threads`: of torch and tokenizers. `micro_batch`: sequences per forward pass, 0 for as many as fit.
    `checkpoint_seconds`: interval between checkpoints. `lease_seconds`: time without a step after which the lease expires.
    `ranks`: training processes on this node, 0 for one per GPU. `nodes`: machines, each with the same number of ranks.
    `cache`: folder for downloads, "" for the system's default. `shards`: folder for shards of prepared sources, which machines can share,
    "" for `cache`. `run_number`: failures are counted per run; the `retry` command starts a new run.
    """

    study: str = ""
    run_number: int = 1
    node: str = ""
    image: str = ""
    gpus: int = 0
    ranks: int = 0
    nodes: int = 1
    threads: int = 1
    micro_batch: int = 0
    checkpoint_seconds: int = 600
    lease_seconds: int = 600
    cache: str = ""
    shards: str = ""
    inputs: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ranks_per_node(self) -> int:
        return self.ranks or max(1, self.gpus)

    @property
    def world_size(self) -> int:
        """Number of training processes on all nodes."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True, slots=True)
class Request:
    run: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Ready:
    event: str = "ready"


@dataclass(frozen=True, slots=True)
class Start:
    """`from_tokens`: where the attempt resumed the trajectory; 0 for its start, and for tasks that do not count tokens."""

    digest: str
    attempt: int
    from_tokens: int = 0
    event: str = "start"


@dataclass(frozen=True, slots=True)
class Progress:
    digest: str
    done: int
    total: int
    unit: str
    loss: float | None = None
    event: str = "progress"


@dataclass(frozen=True, slots=True)
class End:
    """`code` is an ExitCode. `message` is for the user, empty on success."""

    digest: str
    code: int
    message: str = ""
    event: str = "end"


Event: TypeAlias = Ready | Start | Progress | End
_EVENTS: Final[dict[str, type[Any]]] = {"ready": Ready, "start": Start, "progress": Progress, "end": End}


def to_line(message: Event | Request) -> str:
    """Return the message as one line of JSON without the newline."""
    return json.dumps(asdict(message), ensure_ascii=False)


def read_event(line: str) -> Event:
    """Return the event in a line (inverse of `to_line`). Raises ContractError."""
    try:
        body = json.loads(line)
        event: Event = _EVENTS[body["event"]](**body)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ContractError(f"not an event of a worker: {line[:200]!r}") from problem
    return event


def read_request(line: str) -> Request:
    """Return the request in a line (inverse of `to_line`). Raises ContractError."""
    try:
        body = json.loads(line)
        return Request(body["run"], Placement(**body["placement"]))
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ContractError(f"not a request to a worker: {line[:200]!r}") from problem
