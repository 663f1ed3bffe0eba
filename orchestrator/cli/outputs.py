"""Turns a failure to write an output into a mistake of the command, reported in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: Path, alternative: str) -> Iterator[None]:
    """Wrap code that writes to `path`. `alternative`: what the user can name instead. Raises UsageError."""
    try:
        yield
    except OSError as problem:
        from orchestrator.errors import UsageError

        raise UsageError(f"{path} cannot be written: {problem.strerror or problem}. Name {alternative}") from problem
