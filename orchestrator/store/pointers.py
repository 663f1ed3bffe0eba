"""Pointers to checkpoints: small objects that name the attempt that published the checkpoint at a number of tokens.

`leases` reads them to find the attempt that is resumed, `checkpoints` reads and writes them, `metrics` follows them to build a lineage.
"""

from pydantic import BaseModel, ConfigDict

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged
from orchestrator.store.addresses import attempt_key, checkpoint_pointer_key, checkpoints_prefix, pointer_tokens
from orchestrator.store.documents import parse_model
from orchestrator.store.objects import Store, create_once


class Pointer(BaseModel):
    """A pointer. `manifest` is in the folder of `attempt`. `nonce` identifies the writer's own pointer after a lost reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: int
    attempt: int
    manifest: Artifact
    nonce: str


def create_pointer(store: Store, work_root: str, pointer: Pointer) -> Pointer:
    """Create the pointer unless one exists at its tokens, and return the existing one. Raises Damaged if that is invalid."""
    key = checkpoint_pointer_key(work_root, pointer.tokens)
    return _parse(key, create_once(store.objects, key, pointer.model_dump_json(indent=1).encode()))


def read_pointer(store: Store, work_root: str, tokens: int) -> Pointer:
    """Return the pointer at `tokens`. Raises KeyMissing, Damaged."""
    key = checkpoint_pointer_key(work_root, tokens)
    return _parse(key, store.objects.get(key))


def list_checkpoints(store: Store, work_root: str) -> list[int]:
    """Return the tokens of every published checkpoint, ascending."""
    stats = store.objects.list(checkpoints_prefix(work_root))
    return sorted(tokens for stat in stats if (tokens := pointer_tokens(stat.key)) is not None)


def _parse(key: str, body: bytes) -> Pointer:
    pointer = parse_model(Pointer, body, key, "a valid checkpoint pointer")
    if pointer.tokens != pointer_tokens(key) or not pointer.manifest.key.startswith(_attempt_of(key, pointer)):
        raise Damaged(f"{key} is not a valid checkpoint pointer: it names other tokens or another attempt than its manifest")
    return pointer


def _attempt_of(key: str, pointer: Pointer) -> str:
    return attempt_key(key.rpartition("/checkpoints/")[0], pointer.attempt, "")
