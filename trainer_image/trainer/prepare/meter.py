"""Says how far a prepare task is: to whoever watches, and to the lease, which lives on progress."""

from typing import Final

from trainer.context import Context, Stopped

# A line of progress at least so often: seconds of work, and some 200 lines in all for a small source.
_STRIDE: Final = 16 << 20
_LINES: Final = 200


class Meter:
    """Counts bytes of work. `total` may be set once it is known; what is done only grows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._base = self._told = 0
        self.done = 0
        self.total = 0

    def start_phase(self) -> None:
        """From here on `reach` counts from what has been done so far."""
        self._base = self.done

    def advance(self, count: int) -> None:
        """`count` more bytes have been worked through."""
        self.done += count
        if self.done - self._told < min(_STRIDE, self.total // _LINES):
            return
        self._told = self.done
        self._context.progress(min(self.done, self.total), self.total, "bytes")
        self._context.lease.renew(self.done)

    def reach(self, position: int) -> None:
        """This phase has come to `position` bytes; going back counts for nothing."""
        self.advance(max(0, self._base + position - self.done))

    def leave_if_asked(self) -> None:
        """Raises Stopped when the attempt is to stop; call it only where nothing is lost by that."""
        if self._context.stopping():
            raise Stopped
