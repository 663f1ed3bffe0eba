"""How a worker process talks to its parent: requests as JSON lines on stdin, events as JSON lines on stdout.

    parent -> worker   {"run": "<digest>", "placement": {...}}      one task after the other; end of file means: leave
    worker -> parent   {"event": "ready"}                            torch is imported
                       {"event": "start", "digest": ..., "attempt": 7, "from_tokens": 0}
                       {"event": "progress", "digest": ..., "done": 204800, "total": 524288, "unit": "tokens", "loss": 3.1}
                       {"event": "end", "digest": ..., "code": 0, "message": ""}

SIGTERM to a worker means: finish the step, write a checkpoint, send `end` with 75 and leave.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

from orchestrator.errors import ContractError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a task runs here. Nothing in it may change a result; each field is a flag of `python -m trainer`.

    `inputs`: fingerprint of a source -> the files, folders or patterns that hold it (URLs or paths); for a tokenizer given as a file,
    `file:<sha256>` -> its path. `threads`: of torch and tokenizers. `micro_batch`: sequences a forward pass, 0 for all that fit.
    `checkpoint_seconds`: between two checkpoints. `lease_seconds`: after how long without a step the lease may be taken over.
    `ranks`: processes on this node that train together, 0 for one a GPU; `nodes`: machines that each have so many.
    `cache`: a folder for downloads, "" for the system's; `shards`: one for those of prepared sources, which several machines may share,
    "" for `cache`. `run_number`: failures are counted in it; a person's `retry` begins a new one.
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
    def ranks_a_node(self) -> int:
        return self.ranks or max(1, self.gpus)

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.nodes * self.ranks_a_node


@dataclass(frozen=True, slots=True)
class Request:
    run: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class Ready:
    event: str = "ready"


@dataclass(frozen=True, slots=True)
class Start:
    """`from_tokens`: where the attempt took the trajectory up (0 from its start, also for tasks that count no tokens)."""

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
    """`code` is an ExitCode. `message`: for people, empty on success."""

    digest: str
    code: int
    message: str = ""
    event: str = "end"


Event: TypeAlias = Ready | Start | Progress | End
_EVENTS: Final[dict[str, type[Any]]] = {"ready": Ready, "start": Start, "progress": Progress, "end": End}


def to_line(message: Event | Request) -> str:
    """One line of JSON without its newline."""
    return json.dumps(asdict(message), ensure_ascii=False)


def read_event(line: str) -> Event:
    """Inverse of `to_line` for events. Raises ContractError."""
    try:
        body = json.loads(line)
        event: Event = _EVENTS[body["event"]](**body)
    except (ValueError, KeyError, TypeError) as problem:
        raise ContractError(f"not an event of a worker: {line[:200]!r}") from problem
    return event


def read_request(line: str) -> Request:
    """Inverse of `to_line` for requests. Raises ContractError."""
    try:
        body = json.loads(line)
        return Request(body["run"], Placement(**body["placement"]))
    except (ValueError, KeyError, TypeError) as problem:
        raise ContractError(f"not a request to a worker: {line[:200]!r}") from problem
