"""Finds, opens and hashes the files of a source, on this machine or in a bucket.

`orchestrator.study.sources` calls it to compute fingerprints for the planner, `trainer.prepare` to read documents.
A source's path is a file, a
folder (all files in it whose names say how they are read), or a pattern (`*` within a folder, `**` across folders). Names that begin
with a dot are passed over. Files are only read.
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
from orchestrator.store.external import Bucket, Found

_CHUNK: Final = 1 << 20
_WILDCARD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a source as it stood when it was listed.

    `name`: absolute path or URL. `version`: differs whenever the content may (times and inode of a local file, else the bucket's etag).
    `changed`: seconds since 1970, by the clock of whoever keeps the file.
    """

    name: str
    kind: FileKind
    size: int
    version: str
    changed: float


def expand(path: str, base: Path) -> list[CorpusFile]:
    """The files of a source, sorted by name. `path`: as the study file gives it; a relative one starts at `base`.

    Raises KeyMissing when nothing is there, when nothing there can be read, or when all of it is empty; StoreUnavailable when the place
    does not answer or refuses us.
    """
    found = list(_in_bucket(path) if _is_url(path) else _on_disk(path, base))
    if not found:
        raise KeyMissing(f"{path}: no such file or folder, or nothing in it; a relative path starts at {base.absolute()}")
    files = [CorpusFile(entry.name, kind, *entry[1:]) for entry in found if (kind := kind_of(entry.name)) is not None]
    if not files:
        raise KeyMissing(f"{path}: none of its {len(found)} files can be read ({found[0].name} for one); a source is made of {READABLE}")
    if not any(file.size for file in files):
        raise KeyMissing(f"{path}: the source is empty: all of its {len(files)} files have 0 bytes")
    return sorted(files, key=lambda file: file.name)


def expand_all(paths: Iterable[str], base: Path) -> list[CorpusFile]:
    """The files of all `paths`, sorted by name, each once however many paths lead to it. Raises as `expand` does."""
    found = {file.name: file for path in paths for file in expand(path, base)}
    return [found[name] for name in sorted(found)]


@contextmanager
def opened(file: CorpusFile) -> Iterator[BinaryIO]:
    """The bytes of a file as a seekable stream. Raises KeyMissing, StoreUnavailable."""
    with _open(file.name) as stream:
        yield stream


def hash_of(file: CorpusFile, advance: Callable[[int], object]) -> str:
    """SHA-256 of a file's content, 64 hex digits. `advance` hears how many bytes each step has read. Raises as `opened` does."""
    digest = hashlib.sha256()
    with opened(file) as stream, _told(file.name):
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def check_unchanged(file: CorpusFile) -> None:
    """Raises StoreUnavailable when the file is no longer the one that was listed: somebody writes to it."""
    if _look_up(file.name) != Found(file.name, file.size, file.version, file.changed):
        raise StoreUnavailable(f"{file.name}: it changed while it was read; try again when nobody writes to it")


def _open(name: str) -> BinaryIO:
    if _is_url(name):
        return cast(BinaryIO, Bucket.of(name).reader(name))
    with _told(name):
        return Path(name).open("rb")


def _is_url(name: str) -> bool:
    return "://" in name


def _on_disk(path: str, base: Path) -> Iterator[Found]:
    place = base.absolute() / Path(path).expanduser()
    with _told(str(place)):
        if place.is_dir():
            yield from map(_file, _under(place))
        elif place.is_file():
            yield _file(str(place))
        else:
            matches = glob.glob(str(place), recursive=True)  # noqa: PTH207 - Path.glob knows no absolute patterns
            yield from (_file(match) for match in matches if Path(match).is_file())


def _under(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder, onerror=_fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(path) for name in names if not name.startswith(".") and (path := Path(root, name)).is_file())


def _fail(problem: OSError) -> None:
    raise problem


def _file(name: str) -> Found:
    status = Path(name).stat()
    # the time of the last change of the inode cannot be set by hand, as that of the content can (cp -p, touch -d)
    version = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_dev}:{status.st_ino}"
    return Found(name, status.st_size, version, max(status.st_mtime, status.st_ctime))


def _in_bucket(url: str) -> Iterator[Found]:
    bucket = Bucket.of(url)
    if not _WILDCARD.search(url):
        with suppress(KeyMissing):
            yield bucket.look_up(url)
            return
    folder = _WILDCARD.split(url, maxsplit=1)[0].rpartition("/")[0] if _WILDCARD.search(url) else url.rstrip("/")
    pattern = _translated(url if _WILDCARD.search(url) else f"{folder}/**")
    for found in bucket.under(folder):
        if pattern.fullmatch(found.name) and not _is_hidden(found.name.removeprefix(folder)):
            yield found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _translated(pattern: str) -> re.Pattern[str]:
    """`**/` stands for any folders, `*` and `?` for anything but a slash, `[...]` for one of the characters."""
    meanings = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return re.compile("".join(meanings.get(token) or (token if token[:1] == "[" else re.escape(token)) for token in tokens))


def _look_up(name: str) -> Found:
    if _is_url(name):
        return Bucket.of(name).look_up(name)
    with _told(name):
        return _file(name)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Errors of the operating system as ours."""
    try:
        yield
    except FileNotFoundError:
        raise KeyMissing(f"{name}: there is no such file") from None
    except PermissionError as problem:
        raise StoreUnavailable(f"{name}: {problem.strerror}; look at the rights of the file and its folders") from problem
    except OSError as problem:
        raise StoreUnavailable(f"{name}: cannot be read ({problem})") from problem
