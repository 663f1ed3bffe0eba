"""Find the files of a source at the paths given by the placement, and check them against the task's fingerprint."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contract.files import FileTriple, fingerprint_of
from orchestrator.errors import KeyMissing, TaskRefused
from orchestrator.store.corpora import CorpusFile, expand_all, hash_unchanged
from trainer.context import Context
from trainer.prepare.meter import Meter


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a source with the SHA-256 of its content."""

    sha256: str
    file: CorpusFile

    @property
    def triple(self) -> FileTriple:
        return self.sha256, self.file.kind.reader, self.file.kind.language


def paths_of(context: Context, name: str) -> list[str]:
    """Return the placement's paths of `name`, a fingerprint or `file:` and a SHA-256. Raises TaskRefused if there are none."""
    paths = context.placement.inputs.get(name)
    if not paths:
        raise TaskRefused(f"the placement names no file for {name}; pass its path with --input, as `scaling-study run` does")
    return paths


def find_files(context: Context, fingerprint: str) -> list[CorpusFile]:
    """Return the files of a source, unchecked. Raises StoreUnavailable, and TaskRefused if there are no files."""
    try:
        return expand_all(paths_of(context, fingerprint), Path.cwd())
    except KeyMissing as problem:
        raise TaskRefused(str(problem)) from problem


def check_files(context: Context, fingerprint: str, files: Sequence[CorpusFile], meter: Meter) -> list[InputFile]:
    """Return the files in reading order. Raises TaskRefused if their fingerprint differs, Stopped, StoreUnavailable."""
    inputs = sorted(_hashed(files, context.placement.threads, meter), key=lambda entry: (entry.triple, entry.file.name))
    found = fingerprint_of(entry.triple for entry in inputs)
    if found != fingerprint:
        raise TaskRefused(
            f"{', '.join(paths_of(context, fingerprint))}: its {len(inputs)} files have the fingerprint {found}, but the task was "
            f"planned for {fingerprint}; restore the original files or plan again"
        )
    return inputs


def _hashed(files: Sequence[CorpusFile], threads: int, meter: Meter) -> Iterator[InputFile]:
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for file, sha256 in zip(files, pool.map(hash_unchanged, files), strict=True):
            meter.advance(file.size)
            meter.check_stop()
            yield InputFile(sha256, file)
    finally:
        pool.shutdown(cancel_futures=True)
