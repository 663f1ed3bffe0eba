"""States of a trajectory that can be loaded again: files first, manifest next, pointer last.

The trainer publishes and resumes, evaluation loads, `upkeep` clears. The first pointer at a number of tokens stays; a checkpoint that
turns out damaged is moved aside by the one who holds the lease, and the next lower one is taken.
"""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store import artifacts
from orchestrator.store.addresses import checkpoint_pointer_key
from orchestrator.store.leases import Lease
from orchestrator.store.objects import Store
from orchestrator.store.pointers import Pointer, create_pointer, kept, read_pointer
from orchestrator.store.quarantine import move_checkpoint_aside

__all__ = ["Checkpoint", "Manifest", "at", "find", "kept", "latest", "publish"]

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: its files by name, and the state that is small enough for JSON. `tokens` from the trajectory's own start."""

    work_root: str
    tokens: int
    attempt: int
    files: dict[str, Artifact]
    state: dict[str, Any]


class Manifest(BaseModel):
    """Every file of a checkpoint; written after them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    tokens: int
    attempt: int
    files: dict[str, Artifact]
    state: dict[str, Any]


def publish(store: Store, lease: Lease, tokens: int, files: Mapping[str, Path | bytes], state: Mapping[str, Any]) -> Checkpoint:
    """Keep the state at `tokens` for good: files, manifest, then the pointer. Raises LeaseLost.

    The checkpoint that stands is returned: ours, or another's that was the first at `tokens`.
    """
    folder = ("checkpoints", str(tokens))
    written = {name: _write(store, lease.key(*folder, name), body) for name, body in files.items()}
    manifest = Manifest(tokens=tokens, attempt=lease.number, files=written, state=dict(state))
    artifact = artifacts.write_bytes(store, lease.key(*folder, MANIFEST), manifest.model_dump_json(indent=1).encode())
    lease.check()
    pointer = Pointer(tokens=tokens, attempt=lease.number, manifest=artifact, nonce=uuid.uuid4().hex)
    try:
        stands = create_pointer(store, lease.work_root, pointer)
        checkpoint = _read(store, lease.work_root, stands)
    except (Damaged, KeyMissing) as problem:
        move_checkpoint_aside(store, lease.work_root, tokens, str(problem))
        checkpoint = _read(store, lease.work_root, create_pointer(store, lease.work_root, pointer))
    lease.note_checkpoint(tokens)
    return checkpoint


def _write(store: Store, key: str, body: Path | bytes) -> Artifact:
    return artifacts.write_file(store, key, body) if isinstance(body, Path) else artifacts.write_bytes(store, key, body)


def latest(store: Store, work_root: str, at_most: int, cache: Path) -> tuple[Checkpoint, dict[str, Path]] | None:
    """The highest checkpoint that is not past `at_most` tokens and loads, with its files; None when only the start is left.

    One that is damaged is moved aside, and the next lower one is taken: the caller holds the lease on `work_root`.
    """
    for tokens in reversed(kept(store, work_root)):
        if tokens > at_most:
            continue
        try:
            return at(store, work_root, tokens, cache)
        except (Damaged, KeyMissing) as problem:
            move_checkpoint_aside(store, work_root, tokens, str(problem))
    return None


def at(store: Store, work_root: str, tokens: int, cache: Path, names: Collection[str] | None = None) -> tuple[Checkpoint, dict[str, Path]]:
    """The checkpoint at exactly `tokens`, with its files, checked; of these only `names`, if given, are fetched.

    Raises KeyMissing when it is not there, Damaged when what was asked for is not whole.
    """
    checkpoint = find(store, work_root, tokens)
    wanted = {name: artifact for name, artifact in checkpoint.files.items() if names is None or name in names}
    try:
        return checkpoint, {name: artifacts.fetch(store, artifact, cache) for name, artifact in wanted.items()}
    except KeyMissing as problem:
        raise Damaged(f"{checkpoint_pointer_key(work_root, tokens)} points to a file that is gone: {problem}") from problem


def find(store: Store, work_root: str, tokens: int) -> Checkpoint:
    """The checkpoint at `tokens` by its pointer and manifest, without its files. Raises KeyMissing, Damaged."""
    return _read(store, work_root, read_pointer(store, work_root, tokens))


def _read(store: Store, work_root: str, pointer: Pointer) -> Checkpoint:
    try:
        manifest = Manifest.model_validate_json(artifacts.read_bytes(store, pointer.manifest))
    except KeyMissing as problem:
        raise Damaged(f"{checkpoint_pointer_key(work_root, pointer.tokens)} points to a manifest that is gone") from problem
    except ValidationError as problem:
        raise Damaged(f"{pointer.manifest.key} is not a manifest: {problem.errors()[0]['msg']}") from problem
    return Checkpoint(work_root, manifest.tokens, manifest.attempt, manifest.files, manifest.state)
