"""Convert a failure to write an output file to a UsageError, which the command reports in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path, alternative: str) -> Iterator[None]:
    """Wrap code that writes to `path`. `alternative`: what to name instead, for the message. Raises UsageError if a write fails."""
    try:
        yield
    except OSError as problem:
        from orchestrator.errors import UsageError

        raise UsageError(f"{path} cannot be written: {problem.strerror or problem}. Name {alternative}") from problem
