"""Report the progress of a prepare task, and renew its lease."""

from typing import Final

from trainer.context import Context, Stopped

# Bytes between progress events: seconds of work, and about 200 events in total for a small source.
_MAX_REPORT_BYTES: Final = 16 << 20
_REPORTS: Final = 200


class Meter:
    """Counts processed bytes. `total` may be set once it is known; `done` never decreases."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._base = self._reported = 0
        self.done = 0
        self.total = 0

    def start_phase(self) -> None:
        """Start a phase: `reach` counts from the bytes done so far."""
        self._base = self.done

    def advance(self, count: int) -> None:
        """Add `count` processed bytes."""
        self.done += count
        if self.done - self._reported < min(_MAX_REPORT_BYTES, self.total // _REPORTS):
            return
        self._reported = self.done
        self._context.progress(min(self.done, self.total), self.total, "bytes")
        self._context.lease.renew(self.done)

    def reach(self, position: int) -> None:
        """Set the position of this phase in bytes; a lower position than before is ignored."""
        self.advance(max(0, self._base + position - self.done))

    def check_stop(self) -> None:
        """Raise Stopped if the attempt was asked to stop. Call it only where no work would be lost."""
        if self._context.stopping():
            raise Stopped
