"""Pointers to checkpoints: the small bodies that say which attempt's checkpoint stands at a number of tokens.

Leases ask them which attempt is taken up, `checkpoints` reads and writes them, metrics follow them back.
"""

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged
from orchestrator.store.addresses import checkpoint_pointer_key, checkpoints_prefix, pointer_tokens
from orchestrator.store.objects import Store, create_once


class Pointer(BaseModel):
    """`manifest` lies in the folder of `attempt`. `nonce` tells a winner whose reply was lost that it won."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: int
    attempt: int
    manifest: Artifact
    nonce: str


def create_pointer(store: Store, work_root: str, pointer: Pointer) -> Pointer:
    """Let `pointer` stand unless there is one at its tokens; the one that stands. Raises Damaged when that cannot be read."""
    key = checkpoint_pointer_key(work_root, pointer.tokens)
    return _parse(key, create_once(store.objects, key, pointer.model_dump_json(indent=1).encode()))


def read_pointer(store: Store, work_root: str, tokens: int) -> Pointer:
    """The pointer at `tokens`. Raises KeyMissing, Damaged."""
    key = checkpoint_pointer_key(work_root, tokens)
    return _parse(key, store.objects.get(key))


def kept(store: Store, work_root: str) -> list[int]:
    """Tokens of every checkpoint that is pointed to, ascending."""
    stats = store.objects.list(checkpoints_prefix(work_root))
    return sorted(tokens for stat in stats if (tokens := pointer_tokens(stat.key)) is not None)


def _parse(key: str, body: bytes) -> Pointer:
    try:
        return Pointer.model_validate_json(body)
    except ValidationError as problem:
        raise Damaged(f"{key} is not a whole pointer to a checkpoint: {problem.errors()[0]['msg']}") from problem
