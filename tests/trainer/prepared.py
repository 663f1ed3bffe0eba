"""Prepared sources with given tokens, made without reading files."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
from trainer.prepare.manifest import Manifest, Section, dtype_for
from trainer.prepare.pieces import PIECE_ROW
from trainer.prepare.shards import SectionWriter

from orchestrator.contract.record import Artifact, Record
from orchestrator.contract.tasks import PrepareTask, Reader, digest_of_task
from orchestrator.store import Store
from orchestrator.store.artifacts import write_bytes
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.records import create_task, publish_record

END_OF_TEXT = 0


def prepare_task(number: int) -> PrepareTask:
    return PrepareTask(f"{number:064x}", Reader("text", 1000), "file:" + "0" * 64, 10, None)


def publish(
    store: Store,
    number: int,
    tokens: Sequence[int],
    held_out: Sequence[Sequence[int]] = (),
    *,
    vocabulary: int = 50_000,
    shard_tokens: int = 1000,
) -> str:
    """Publish a finished prepare task and return its digest. `tokens`: its training tokens, as one document."""
    task = prepare_task(number)
    digest = create_task(store, task)
    lease = acquire(store, f"tasks/{digest}", digest, Holder())
    with tempfile.TemporaryDirectory() as folder:
        training = _section(store, lease, "training", [tokens], vocabulary, shard_tokens, Path(folder))
        held_out_section = _section(store, lease, "held-out", sorted(held_out, key=_hash), vocabulary, shard_tokens, Path(folder))
    manifest = Manifest(vocabulary=vocabulary, end_of_text=END_OF_TEXT, training=training, held_out=held_out_section)
    artifacts: dict[str, Artifact] = {a.key.rpartition("/")[2]: a for a in [*manifest.training.artifacts, *manifest.held_out.artifacts]}
    artifacts["manifest"] = write_bytes(store, lease.key("manifest.json"), manifest.to_bytes())
    record = Record(digest=digest, identity=task.identity(), results={}, artifacts=artifacts, attempts=[], nonce=uuid4().hex)
    publish_record(store, record)
    lease.end("done", 0)
    assert digest == digest_of_task(task)
    return digest


def _hash(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(str(list(ids)).encode()).digest()


def _section(
    store: Store, lease: Lease, name: str, documents: Sequence[Sequence[int]], vocabulary: int, shard_tokens: int, folder: Path
) -> Section:
    with SectionWriter(store, lease, name, shard_tokens, folder) as writer:
        for ids in documents:
            row = np.zeros(1, PIECE_ROW)[0]
            row["bytes"], row["hash"] = 3 * len(ids), np.frombuffer(_hash(ids), np.uint8)
            writer.add(row, np.array(ids, dtype=dtype_for(vocabulary)))
        return writer.close()
