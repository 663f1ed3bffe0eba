"""Series of metrics: every flush of an attempt is one Parquet object, and of all attempts one line counts.

The trainer appends; tracking and report read the line. pyarrow is imported on the first call.
"""

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
    if not rows:
        return
    pa, pq = _pyarrow()
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), _kinds(pa), strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_schema(pa)), sink, compression="zstd", write_page_checksum=True)
    store.objects.put(lease.key("metrics", f"{lease.next_metrics():06d}.parquet"), sink.getvalue())


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
    """One table of metrics, its checksums checked. Raises Damaged."""
    pa, pq = _pyarrow()
    try:
        body = io.BytesIO(store.objects.get(key))
        return pq.ParquetFile(body, page_checksum_verification=True).read().cast(_schema(pa))
    except (pa.ArrowException, OSError) as problem:
        advice = "`scaling-study store verify --repair` moves it aside"
        raise Damaged(f"{key} is not a whole table of metrics ({problem}); {advice}") from problem


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
