"""Find, open and hash the files of a source, on this machine or in a bucket.

`orchestrator.study.sources` calls it to compute fingerprints for the planner, `trainer.prepare` to read documents. The path of a source
is a file, a folder (all files in it with a known suffix), or a pattern (`*` within a folder, `**` across folders). Hidden files and
folders (leading dot) are skipped. Files are never modified.
"""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from orchestrator.contract.files import READABLE, FileKind, kind_of
from orchestrator.errors import KeyMissing, StoreUnavailable
from orchestrator.store.external import Bucket, ExternalStat

_CHUNK: Final = 1 << 20
_WILDCARD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a source at the time it was listed.

    `name`: absolute path or URL. `version`: changes whenever the content may have changed (times and inode of a local file, else the
    bucket's etag). `changed`: seconds since 1970, by the clock of the file system or bucket.
    """

    name: str
    kind: FileKind
    size: int
    version: str
    changed: float


def expand(path: str, base: Path) -> list[CorpusFile]:
    """Return the files of a source, sorted by name. `path`: as in the study file; a relative path starts at `base`.

    Raises KeyMissing if no file exists, none has a known suffix, or all are empty; StoreUnavailable if the location is unreachable or
    denies access.
    """
    found = list(_in_bucket(path) if _is_url(path) else _on_disk(path, base))
    if not found:
        raise KeyMissing(f"{path}: no such file or folder, or the folder is empty; relative paths start at {base.absolute()}")
    files = [CorpusFile(entry.name, kind, *entry[1:]) for entry in found if (kind := kind_of(entry.name)) is not None]
    if not files:
        raise KeyMissing(f"{path}: none of its {len(found)} files has a known type (such as {found[0].name}); allowed are {READABLE}")
    if not any(file.size for file in files):
        raise KeyMissing(f"{path}: the source is empty: all {len(files)} files have 0 bytes")
    return sorted(files, key=lambda file: file.name)


def expand_all(paths: Iterable[str], base: Path) -> list[CorpusFile]:
    """Return the files of all `paths`, sorted by name, without duplicates. Raises the errors of `expand`."""
    found = {file.name: file for path in paths for file in expand(path, base)}
    return [found[name] for name in sorted(found)]


@contextmanager
def opened(file: CorpusFile) -> Iterator[BinaryIO]:
    """Open a file as a seekable binary stream. Raises KeyMissing, StoreUnavailable."""
    with _open(file.name) as stream:
        yield stream


def hash_of(file: CorpusFile, advance: Callable[[int], object]) -> str:
    """Return the SHA-256 of a file as 64 hex digits. `advance` is called with the bytes read per chunk. Raises the errors of `opened`."""
    digest = hashlib.sha256()
    with opened(file) as stream, _store_errors(file.name):
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def hash_unchanged(file: CorpusFile) -> str:
    """Return the SHA-256 of a file that did not change since it was listed. Raises KeyMissing, StoreUnavailable."""
    sha256 = hash_of(file, lambda _: None)
    check_unchanged(file)
    return sha256


def check_unchanged(file: CorpusFile) -> None:
    """Raise StoreUnavailable if the file has changed since it was listed."""
    if _stat(file.name) != ExternalStat(file.name, file.size, file.version, file.changed):
        raise StoreUnavailable(f"{file.name}: changed while it was read; try again when it is no longer being written")


def _open(name: str) -> BinaryIO:
    if _is_url(name):
        return cast(BinaryIO, Bucket.of(name).reader(name))
    with _store_errors(name):
        return Path(name).open("rb")


def _is_url(name: str) -> bool:
    return "://" in name


def _on_disk(path: str, base: Path) -> Iterator[ExternalStat]:
    place = base.absolute() / Path(path).expanduser()
    with _store_errors(str(place)):
        if place.is_dir():
            yield from map(_stat_file, _walk(place))
        elif place.is_file():
            yield _stat_file(str(place))
        else:
            matches = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob knows no absolute patterns
            yield from (_stat_file(match) for match in matches if Path(match).is_file())


def _walk(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder, onerror=_fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(path) for name in names if not name.startswith(".") and (path := Path(root, name)).is_file())


def _fail(problem: OSError) -> None:
    raise problem


def _stat_file(name: str) -> ExternalStat:
    status = Path(name).stat()
    # ctime cannot be set by the user, unlike mtime (cp -p, touch -d)
    version = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_dev}:{status.st_ino}"
    return ExternalStat(name, status.st_size, version, max(status.st_mtime, status.st_ctime))


def _in_bucket(url: str) -> Iterator[ExternalStat]:
    bucket = Bucket.of(url)
    if not _WILDCARD.search(url):
        with suppress(KeyMissing):
            yield bucket.stat(url)
            return
    folder = _WILDCARD.split(url, maxsplit=1)[0].rpartition("/")[0] if _WILDCARD.search(url) else url.rstrip("/")
    pattern = _compile_pattern(url if _WILDCARD.search(url) else f"{folder}/**")
    for found in bucket.list(folder):
        if pattern.fullmatch(found.name) and not _is_hidden(found.name.removeprefix(folder)):
            yield found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a glob: `**/` matches any folders, `*` and `?` anything but a slash, `[...]` one of the characters."""
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return re.compile("".join(meanings.get(token) or (token if token[:1] == "[" else re.escape(token)) for token in tokens))


def _stat(name: str) -> ExternalStat:
    if _is_url(name):
        return Bucket.of(name).stat(name)
    with _store_errors(name):
        return _stat_file(name)


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    """Translate errors of the operating system to store errors."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissing(f"{name}: no such file") from None
    except PermissionError as problem:
        raise StoreUnavailable(f"{name}: {problem.strerror}; check the permissions of the file and its folders") from problem
    except OSError as problem:
        raise StoreUnavailable(f"{name}: cannot be read ({problem})") from problem
