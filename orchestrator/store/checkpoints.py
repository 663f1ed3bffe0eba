"""Checkpoints of a trajectory: the files are written first, then the manifest, then the pointer.

The trainer publishes and loads them, evaluation loads them, `maintenance` removes them. The first pointer at a number of tokens is never
overwritten. The holder of the lease quarantines a damaged checkpoint and loads the next lower one.
"""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from orchestrator.contract.record import Artifact
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store import artifacts
from orchestrator.store.addresses import checkpoint_pointer_key
from orchestrator.store.documents import parse_model
from orchestrator.store.leases import Lease
from orchestrator.store.objects import Store
from orchestrator.store.pointers import Pointer, create_pointer, list_checkpoints, read_pointer
from orchestrator.store.quarantine import quarantine_checkpoint

__all__ = ["Checkpoint", "Manifest", "find", "list_checkpoints", "load", "load_latest", "publish"]

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint. `files`: by name. `state`: the part small enough for JSON. `tokens`: from the trajectory's own start."""

    work_root: str
    tokens: int
    attempt: int
    files: dict[str, Artifact]
    state: dict[str, Any]


class Manifest(BaseModel):
    """The list of a checkpoint's files, written after all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    tokens: int
    attempt: int
    files: dict[str, Artifact]
    state: dict[str, Any]


def publish(store: Store, lease: Lease, tokens: int, files: Mapping[str, Path | bytes], state: Mapping[str, Any]) -> Checkpoint:
    """Publish a checkpoint at `tokens` and return the published one: this one, or an earlier one at the same `tokens`.

    Writes the files, the manifest, then the pointer. Raises LeaseLost.
    """
    folder = ("checkpoints", str(tokens))
    written = {name: _write(store, lease.key(*folder, name), body) for name, body in files.items()}
    manifest = Manifest(tokens=tokens, attempt=lease.number, files=written, state=dict(state))
    artifact = artifacts.write_bytes(store, lease.key(*folder, MANIFEST), manifest.model_dump_json(indent=1).encode())
    lease.check()
    pointer = Pointer(tokens=tokens, attempt=lease.number, manifest=artifact, nonce=uuid.uuid4().hex)
    try:
        published = create_pointer(store, lease.work_root, pointer)
        checkpoint = _read(store, lease.work_root, published)
    except (Damaged, KeyMissing) as problem:
        quarantine_checkpoint(store, lease.work_root, tokens, str(problem))
        checkpoint = _read(store, lease.work_root, create_pointer(store, lease.work_root, pointer))
    lease.note_checkpoint(tokens)
    return checkpoint


def _write(store: Store, key: str, body: Path | bytes) -> Artifact:
    return artifacts.write_file(store, key, body) if isinstance(body, Path) else artifacts.write_bytes(store, key, body)


def load_latest(store: Store, work_root: str, at_most: int, cache: Path) -> tuple[Checkpoint, dict[str, Path]] | None:
    """Load the highest intact checkpoint at or below `at_most` tokens, with its local files; None if there is none.

    Quarantines damaged checkpoints, so the caller must hold the lease on `work_root`.
    """
    for tokens in reversed(list_checkpoints(store, work_root)):
        if tokens > at_most:
            continue
        try:
            return load(store, work_root, tokens, cache)
        except (Damaged, KeyMissing) as problem:
            quarantine_checkpoint(store, work_root, tokens, str(problem))
    return None


def load(
    store: Store, work_root: str, tokens: int, cache: Path, names: Collection[str] | None = None
) -> tuple[Checkpoint, dict[str, Path]]:
    """Load the checkpoint at exactly `tokens`, with its checked local files, or only those in `names`.

    Raises KeyMissing if there is no checkpoint, Damaged if it is incomplete or a requested file has changed.
    """
    checkpoint = find(store, work_root, tokens)
    wanted = {name: artifact for name, artifact in checkpoint.files.items() if names is None or name in names}
    try:
        return checkpoint, {name: artifacts.fetch(store, artifact, cache) for name, artifact in wanted.items()}
    except KeyMissing as problem:
        raise Damaged(f"{checkpoint_pointer_key(work_root, tokens)} points to a missing file: {problem}") from problem


def find(store: Store, work_root: str, tokens: int) -> Checkpoint:
    """Return the checkpoint at `tokens` from its pointer and manifest, without reading its files. Raises KeyMissing, Damaged."""
    return _read(store, work_root, read_pointer(store, work_root, tokens))


def _read(store: Store, work_root: str, pointer: Pointer) -> Checkpoint:
    try:
        body = artifacts.read_bytes(store, pointer.manifest)
    except KeyMissing as problem:
        raise Damaged(f"{checkpoint_pointer_key(work_root, pointer.tokens)} points to a missing manifest") from problem
    manifest = parse_model(Manifest, body, pointer.manifest.key, "a valid manifest")
    return Checkpoint(work_root, manifest.tokens, manifest.attempt, manifest.files, manifest.state)
