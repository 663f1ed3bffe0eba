"""What a finished task leaves: `record.json`. The only truth about results; read by report, tracking, status and later tasks.

`results` by kind:
    prepare tokens      tokens, documents, bytes, held_out_documents, held_out_bytes, files, skipped_* counts
    prepare tokenizer   vocabulary, bytes
    train               loss (mean of the last steps), tokens, steps, skipped_steps, token_hash
    evaluate            bits_per_byte | accuracy and what they were divided by
Artifacts are addressed from the store's root and carry size and SHA-256: whoever reads one checks it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import ContractError


class _Model(BaseModel):
    """What a later version says beyond this is passed over: a record that an older installation calls damaged would be moved aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Artifact(_Model):
    """A file in the store. `key` is relative to the store's root."""

    key: str
    bytes: int
    sha256: str


class Attempt(_Model):
    """One process or pod that worked on a task. Times are ISO 8601 in UTC; `tokens_lost` were trained and then thrown away.

    `ranks`: processes that trained together, on all nodes; `gpus` and `gpu_seconds`: of all of them; `cpu_seconds`: of rank 0 alone, and 0
    of an attempt that was killed.
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
    """`identity` is the task's, so that a record can be understood alone. `nonce` tells a winner whose reply was lost that it won."""

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
    """The record in `body`. Raises ContractError that names `key` when it is cut short or not a record."""
    try:
        return Record.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ContractError(f"{key} is not a whole record: {'.'.join(map(str, first['loc']))}: {first['msg']}") from problem
