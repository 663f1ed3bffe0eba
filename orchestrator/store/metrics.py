"""Series of metrics: every flush of an attempt is one Parquet object, and of all attempts one line counts.

The trainer appends; tracking and report read the line. No record promises these tables, so their names carry their hash. pyarrow is
imported on the first call.
"""

import hashlib
import io
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from orchestrator.errors import Damaged, MissingExtra
from orchestrator.store.addresses import attempt_key
from orchestrator.store.leases import Lease, history
from orchestrator.store.lineage import Piece, line_that_counts
from orchestrator.store.objects import Store
from orchestrator.store.pointers import kept, read_pointer

if TYPE_CHECKING:
    import pyarrow


def append(store: Store, lease: Lease, rows: Sequence[tuple[int, int, str, float]]) -> None:
    """Write rows of (step, tokens, name, value) as one new table of this attempt; no rows, no table."""
    if rows:
        store.objects.put(*packed(lease, rows))


def packed(lease: Lease, rows: Sequence[tuple[int, int, str, float]]) -> tuple[str, bytes]:
    """The attempt's next table and the key that it belongs under: however often it is put there, it counts once."""
    pa, pq = _pyarrow()
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), _kinds(pa), strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_schema(pa)), sink, compression="zstd")
    name = f"{lease.next_metrics():06d}-{_short_hash(sink.getvalue())}.parquet"
    return lease.key("metrics", name), sink.getvalue()


def series(store: Store, work_root: str, at_most: int | None = None) -> "pyarrow.Table":
    """(step, tokens, name, value) of the line that counts, up to `at_most` tokens, in the order it was written. Raises Damaged.

    Of every attempt only what lies before the point where the attempt that went on took the trajectory up.
    """
    pa, _ = _pyarrow()
    import pyarrow.compute as pc

    tables = []
    for piece in _line(store, work_root, at_most):
        table = _read_attempt(store, work_root, piece.attempt)
        inside = pc.greater(table["tokens"], piece.after)
        if piece.until is not None:
            inside = pc.and_(inside, pc.less_equal(table["tokens"], piece.until))
        tables.append(table.filter(inside))
    return pa.concat_tables([_schema(pa).empty_table(), *tables])


def _line(store: Store, work_root: str, at_most: int | None) -> list[Piece]:
    bodies = [body for body in history(store, work_root) if body.took_up or _tables(store, work_root, body.number)]
    pointers = {tokens: read_pointer(store, work_root, tokens).attempt for tokens in kept(store, work_root)}
    return line_that_counts(bodies, pointers, at_most)


def _tables(store: Store, work_root: str, number: int) -> list[str]:
    return sorted(stat.key for stat in store.objects.list(attempt_key(work_root, number, "metrics")))


def _read_attempt(store: Store, work_root: str, number: int) -> "pyarrow.Table":
    pa, _ = _pyarrow()
    tables = [read_table(store, key) for key in _tables(store, work_root, number)]
    return pa.concat_tables([_schema(pa).empty_table(), *tables])


def read_table(store: Store, key: str) -> "pyarrow.Table":
    """One table of metrics, checked by the hash in its name. Raises Damaged."""
    _, pq = _pyarrow()
    body = store.objects.get(key)
    if not key.endswith(f"-{_short_hash(body)}.parquet"):
        raise Damaged(f"{key} is cut or has changed since it was written; `scaling-study store verify --repair` moves it aside")
    return pq.ParquetFile(io.BytesIO(body)).read()


def _short_hash(body: bytes) -> str:
    """Enough of a SHA-256 to see damage; nobody gains by forging a curve in a store of their own."""
    return hashlib.sha256(body).hexdigest()[:16]


def _kinds(pa: ModuleType) -> list[object]:
    return [pa.int64(), pa.int64(), pa.string(), pa.float64()]


def _schema(pa: ModuleType) -> "pyarrow.Schema":
    return pa.schema(list(zip(["step", "tokens", "name", "value"], _kinds(pa), strict=True)))


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise MissingExtra("tables of metrics need pyarrow: pip install 'scaling-study[analysis]'") from problem
    return pyarrow, pyarrow.parquet
