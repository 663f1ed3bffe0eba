"""What a running trajectory tells of itself: the tables of metrics, the lease's renewal and the progress that people watch.

`train` notes every step here. A row is kept for each step, exactly; how often they are written, and how often anybody is told, goes by
the clock and decides no result.
"""

import sys
from time import monotonic
from typing import Final

from orchestrator.contract.vocabulary import GRAD_NORM, LEARNING_RATE, LOSS, TOKENS_PER_SECOND
from orchestrator.errors import StoreUnavailable
from orchestrator.store import metrics
from trainer.context import Context

# Between two tables of metrics, in seconds: a short run is watched live, and one of weeks must not leave a million small files.
_FLUSH_AT_FIRST: Final = 5.0
_FLUSH_AT_LAST: Final = 120.0
_FLUSH_SHARE: Final = 0.05
"""Of the time that the attempt has run."""
_TELL: Final = 0.2
"""Seconds between two words of progress: a small model makes more than a hundred steps a second."""


class Curve:
    """Of one attempt. `write` before a checkpoint is published, so that the line of metrics reaches it."""

    def __init__(self, context: Context, total: int) -> None:
        self._context, self._total = context, total
        self._rows: list[tuple[int, int, str, float]] = []
        self._tables: list[tuple[str, bytes]] = []
        self._is_away = False
        self._start = self._flushed = self._noted = monotonic()
        self._told = float("-inf")

    def note(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None:
        """Step `step` (from 1) ended at `tokens` of the trajectory and read `read` of them. Raises LeaseLost."""
        now = monotonic()
        speed, self._noted = read / max(now - self._noted, 1e-9), now
        values = ((LOSS, loss), (GRAD_NORM, grad_norm), (LEARNING_RATE, rate), (TOKENS_PER_SECOND, speed))
        self._rows += [(step, tokens, name, value) for name, value in values]
        self._context.lease.renew(tokens)
        if now - self._told >= _TELL or tokens == self._total:
            self._told = now
            self._context.progress(tokens, self._total, "tokens", loss)
        if now - self._flushed >= min(_FLUSH_AT_LAST, max(_FLUSH_AT_FIRST, _FLUSH_SHARE * (now - self._start))):
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not written yet, or keep them while the store is away: how long that may last is the lease's affair."""
        try:
            self.write()
        except StoreUnavailable as problem:
            if not self._is_away:
                print(f"trainer: {self._context.digest[:12]}: metrics are written later: {problem}", file=sys.stderr, flush=True)
            self._is_away, self._flushed = True, monotonic()

    def write(self) -> None:
        """Write the rows that are not written yet. Raises StoreUnavailable and keeps those that it could not write."""
        if self._rows:
            # a table that was written although the store said no is written again under its own key, not beside it
            self._tables.append(metrics.encode(self._context.lease, self._rows))
            self._rows = []
        while self._tables:
            self._context.store.objects.put(*self._tables[0])
            del self._tables[0]
        self._is_away, self._flushed = False, monotonic()


class Unheard:
    """The curve of a rank that does not speak."""

    def note(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None:
        """Nothing: rank 0 says the same."""

    def flush(self) -> None:
        """Nothing."""
