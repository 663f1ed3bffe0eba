"""Record the steps of a running trajectory: tables of metrics, lease renewals and progress events.

The training loop records every step here, one row per metric and step. Tables are written and progress is reported at time intervals,
which do not affect results.
"""

import sys
from time import monotonic
from typing import Final

from orchestrator.contract.vocabulary import GRAD_NORM, LEARNING_RATE, LOSS, TOKENS_PER_SECOND
from orchestrator.errors import StoreUnavailable
from orchestrator.store import metrics
from trainer.context import Context

# Interval between tables of metrics, in seconds: short for live plots of short runs, long to avoid a million small files after weeks.
_FLUSH_MIN_SECONDS: Final = 5.0
_FLUSH_MAX_SECONDS: Final = 120.0
_FLUSH_FRACTION: Final = 0.05
"""Interval as a fraction of the attempt's run time, between the two limits."""
_PROGRESS_SECONDS: Final = 0.2
"""Interval between progress events: a small model makes more than a hundred steps per second."""


class MetricsRecorder:
    """Metrics, lease and progress of one attempt. Call `write` before publishing a checkpoint, so that its metrics are stored."""

    def __init__(self, context: Context, total: int) -> None:
        self._context, self._total = context, total
        self._rows: list[tuple[int, int, str, float]] = []
        self._tables: list[tuple[str, bytes]] = []
        self._is_unavailable = False
        self._start = self._flushed = self._recorded = monotonic()
        self._reported = float("-inf")

    def record(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None:
        """Record step `step` (from 1), which ended at `tokens` of the trajectory and read `read` tokens. Raises LeaseLost."""
        now = monotonic()
        speed, self._recorded = read / max(now - self._recorded, 1e-9), now
        values = ((LOSS, loss), (GRAD_NORM, grad_norm), (LEARNING_RATE, rate), (TOKENS_PER_SECOND, speed))
        self._rows += [(step, tokens, name, value) for name, value in values]
        self._context.lease.renew(tokens)
        if now - self._reported >= _PROGRESS_SECONDS or tokens == self._total:
            self._reported = now
            self._context.progress(tokens, self._total, "tokens", loss)
        if now - self._flushed >= min(_FLUSH_MAX_SECONDS, max(_FLUSH_MIN_SECONDS, _FLUSH_FRACTION * (now - self._start))):
            self.flush()

    def flush(self) -> None:
        """Write the pending rows, or keep them while the store is unavailable; the lease limits how long that may last."""
        try:
            self.write()
        except StoreUnavailable as problem:
            if not self._is_unavailable:
                print(f"trainer: {self._context.digest[:12]}: could not write metrics, will retry: {problem}", file=sys.stderr, flush=True)
            self._is_unavailable, self._flushed = True, monotonic()

    def write(self) -> None:
        """Write the pending rows. Raises StoreUnavailable and keeps the rows that were not written."""
        if self._rows:
            # a retry uses the same key, so a write that succeeded despite an error is overwritten, not duplicated
            self._tables.append(metrics.encode(self._context.lease, self._rows))
            self._rows = []
        while self._tables:
            self._context.store.objects.put(*self._tables[0])
            del self._tables[0]
        self._is_unavailable, self._flushed = False, monotonic()


class NullRecorder:
    """Recorder of ranks other than rank 0; records nothing."""

    def record(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None:
        """Do nothing: rank 0 records the same values."""

    def flush(self) -> None:
        """Do nothing."""
