"""Metrics of a trajectory: each flush of an attempt is one Parquet object; one lineage of attempts is effective.

The trainer appends tables; tracking and the report read the effective series. Records do not list these tables, so their names contain
their hash. pyarrow is imported on the first call.
"""

import hashlib
import io
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from orchestrator.errors import Damaged, MissingExtra
from orchestrator.store.addresses import attempt_key
from orchestrator.store.leases import Lease, history
from orchestrator.store.lineage import Segment, effective_lineage
from orchestrator.store.objects import Store
from orchestrator.store.pointers import list_checkpoints, read_pointer

if TYPE_CHECKING:
    import pyarrow


def append(store: Store, lease: Lease, rows: Sequence[tuple[int, int, str, float]]) -> None:
    """Write rows of (step, tokens, name, value) as a new table of this attempt. Without rows, nothing is written."""
    if rows:
        store.objects.put(*encode(lease, rows))


def encode(lease: Lease, rows: Sequence[tuple[int, int, str, float]]) -> tuple[str, bytes]:
    """Return the key and the Parquet bytes of the attempt's next table. Writing it repeatedly is idempotent."""
    pa, pq = _pyarrow()
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), _column_types(pa), strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_schema(pa)), sink, compression="zstd")
    name = f"{lease.next_metrics():06d}-{_short_hash(sink.getvalue())}.parquet"
    return lease.key("metrics", name), sink.getvalue()


def series(store: Store, work_root: str, at_most: int | None = None) -> "pyarrow.Table":
    """Return the effective (step, tokens, name, value) rows up to `at_most` tokens, in writing order. Raises Damaged.

    Each attempt contributes only the rows before the point where the next attempt of the lineage resumed.
    """
    pa, _ = _pyarrow()
    import pyarrow.compute as pc

    tables = []
    for segment in _lineage(store, work_root, at_most):
        table = _read_attempt(store, work_root, segment.attempt)
        inside = pc.greater(table["tokens"], segment.after)
        if segment.until is not None:
            inside = pc.and_(inside, pc.less_equal(table["tokens"], segment.until))
        tables.append(table.filter(inside))
    return pa.concat_tables([_schema(pa).empty_table(), *tables])


def _lineage(store: Store, work_root: str, at_most: int | None) -> list[Segment]:
    bodies = [body for body in history(store, work_root) if body.took_up or _tables(store, work_root, body.number)]
    pointers = {tokens: read_pointer(store, work_root, tokens).attempt for tokens in list_checkpoints(store, work_root)}
    return effective_lineage(bodies, pointers, at_most)


def effective_attempts(store: Store, work_root: str) -> set[int]:
    """Return the attempts whose rows belong to the series up to some checkpoint of the trajectory, or to its end. Raises Damaged."""
    ends = [None, *list_checkpoints(store, work_root)]
    return {segment.attempt for end in ends for segment in _lineage(store, work_root, end)}


def _tables(store: Store, work_root: str, number: int) -> list[str]:
    return sorted(stat.key for stat in store.objects.list(attempt_key(work_root, number, "metrics")))


def _read_attempt(store: Store, work_root: str, number: int) -> "pyarrow.Table":
    pa, _ = _pyarrow()
    tables = [read_table(store, key) for key in _tables(store, work_root, number)]
    return pa.concat_tables([_schema(pa).empty_table(), *tables])


def read_table(store: Store, key: str) -> "pyarrow.Table":
    """Return one metrics table, checked against the hash in its name. Raises Damaged."""
    _, pq = _pyarrow()
    body = store.objects.get(key)
    if not key.endswith(f"-{_short_hash(body)}.parquet"):
        raise Damaged(f"{key} is truncated or has changed since it was written; `scaling-study store verify --repair` quarantines it")
    return pq.ParquetFile(io.BytesIO(body)).read()


def _short_hash(body: bytes) -> str:
    """Return 16 hex digits of the SHA-256: enough to detect damage; protection against forgery is not needed."""
    return hashlib.sha256(body).hexdigest()[:16]


def _column_types(pa: ModuleType) -> list[object]:
    return [pa.int64(), pa.int64(), pa.string(), pa.float64()]


def _schema(pa: ModuleType) -> "pyarrow.Schema":
    return pa.schema(list(zip(["step", "tokens", "name", "value"], _column_types(pa), strict=True)))


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise MissingExtra("metrics tables require pyarrow: pip install 'scaling-study[analysis]'") from problem
    return pyarrow, pyarrow.parquet
