"""Where a command writes what a person asked for: a place that cannot be written is a mistake of the command, told in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(place: Path, mend: str) -> Iterator[None]:
    """Around whatever writes into `place`. `mend`: what to name instead. Raises CommandMistake."""
    try:
        yield
    except OSError as problem:
        from orchestrator.errors import CommandMistake

        raise CommandMistake(f"{place} cannot be written: {problem.strerror or problem}. Name {mend}") from problem
