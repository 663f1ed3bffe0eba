"""The result of a finished task: `record.json`. The single source of results for report, tracking, status and later tasks.

`results` by kind:
    prepare tokens      tokens, documents, bytes, held_out_documents, held_out_bytes, files, skipped_* counts
    prepare tokenizer   vocabulary, bytes
    train               loss (mean of the last steps), tokens, steps, skipped_steps, token_hash
    evaluate            bits_per_byte | accuracy, and their denominators
Keys of artifacts are relative to the store's root. Their size and SHA-256 are checked at every read.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import ContractError


class _Model(BaseModel):
    """Base model that ignores unknown fields: otherwise an older installation would quarantine records of a newer one."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Artifact(_Model):
    """A file in the store. `key` is relative to the store's root."""

    key: str
    bytes: int
    sha256: str


class Attempt(_Model):
    """One process or pod that worked on a task. Times are ISO 8601 in UTC; `tokens_lost`: trained, but not kept by a checkpoint.

    `ranks`: training processes on all nodes. `gpus`, `gpu_seconds`: of all ranks. `cpu_seconds`: of rank 0 only; 0 for a killed attempt.
    """

    number: int
    study: str = ""
    run_number: int = 1
    node: str = ""
    pid: int = 0
    image: str = ""
    commit: str = ""
    dirty: bool = False
    versions: dict[str, str] = {}
    processor: str = ""
    threads: int = 1
    ranks: int = 1
    gpus: int = 0
    start: str
    end: str
    how: str = ""
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    from_tokens: int = 0
    tokens_lost: int = 0


class Record(_Model):
    """`identity`: the task's, so that a record is self-contained. `nonce` identifies the writer's own record after a lost reply."""

    version: Literal[1] = 1
    digest: str
    identity: dict[str, Any]
    results: dict[str, float | int | str]
    artifacts: dict[str, Artifact]
    attempts: list[Attempt]
    nonce: str

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def read_record(body: bytes, key: str) -> Record:
    """Return the record in `body`. Raises ContractError, which names `key`, if it is truncated or invalid."""
    try:
        return Record.model_validate_json(body)
    except RecursionError:
        raise ContractError(f"{key} is not a complete record: its JSON is nested too deeply") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        field = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise ContractError(f"{key} is not a complete record: {field}{first['msg']}") from problem
