"""Find, open and hash the files of a source, on this machine or in a bucket.

`orchestrator.study.sources` calls it to compute fingerprints for the planner, `trainer.prepare` to read documents. The path of a source
is a file, a folder (all files in it with a known suffix), or a pattern (`*` within a folder, `**` across folders). Hidden files and
folders (leading dot) are skipped. Files are never modified.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from orchestrator.contract.files import READABLE, FileKind, kind_of
from orchestrator.errors import KeyMissing, StoreError, StoreUnavailable
from orchestrator.store.external import Bucket, ExternalStat
from orchestrator.store.folder import leads_back
from orchestrator.store.patterns import WILDCARD, PathPattern, Positions, parse_pattern

_CHUNK: Final = 1 << 20
# `**` beside other characters in a pattern for a bucket
_MOST_INNER_STARS: Final = 3
# Links inside linked folders that one pattern follows. Folders that link to each other have exponentially many paths
_MOST_NESTED_LINKS: Final = 1_000


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
    denies access; StoreError for an invalid pattern, or a file name that is not UTF-8.
    """
    found = list(_in_bucket(path) if _is_url(path) else _on_disk(path, base))
    for entry in found:
        _check_name(entry.name)
    if not found:
        raise KeyMissing(f"{path}: no such file or folder, or the folder is empty; relative paths start at {base.absolute()}")
    files = [CorpusFile(entry.name, kind, *entry[1:]) for entry in found if (kind := kind_of(entry.name)) is not None]
    if not files:
        raise KeyMissing(f"{path}: none of its {len(found)} files has a known type (such as {found[0].name}); allowed are {READABLE}")
    if not any(file.size for file in files):
        raise KeyMissing(f"{path}: the source is empty: all {len(files)} files have 0 bytes")
    return sorted(files, key=lambda file: file.name)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise StoreError(f"{shown}: the name of this file or of its folder is not UTF-8; rename it") from None


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
    try:
        given = Path(path).expanduser()
    except RuntimeError as problem:  # ~unknown-user
        raise StoreError(f"{path}: {problem}; write an absolute path") from problem
    place = base.absolute() / given
    with _store_errors(str(place)):
        if place.is_dir():
            yield from map(_stat_file, _walk(place))
        elif place.is_file():
            yield _stat_file(str(place))
        else:
            yield from map(_stat_file, _matching(given, base.absolute()))


def _matching(pattern: Path, base: Path) -> Iterator[str]:
    """Yield the files that match a pattern. A relative pattern starts at `base`, which is a folder and no pattern."""
    parts = pattern.parts
    literal = next((place for place, part in enumerate(parts) if WILDCARD.search(part)), len(parts))
    if literal < len(parts):
        found = parse_pattern("/".join(parts[literal:]))
        yield from _walk_pattern(str(base.joinpath(*parts[:literal])), found)


def _walk_pattern(start: str, pattern: PathPattern) -> Iterator[str]:
    """Yield the files under `start` that match. Links to folders are followed, except to a folder that contains them."""
    open_folders: list[tuple[str, Positions, frozenset[str]]] = [(start, pattern.start, frozenset())]
    nested = 0
    while open_folders:
        folder, positions, links = open_folders.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            reached = pattern.advance(positions, entry.name)
            if not reached:
                continue
            if pattern.is_complete(reached) and _is_file(entry):
                yield entry.path
            elif _is_folder(entry):
                inside = links
                if entry.is_symlink():
                    inside, nested = links | {os.path.realpath(folder)}, nested + bool(links)
                    if leads_back(entry.path, inside):
                        continue
                    if nested > _MOST_NESTED_LINKS:
                        raise StoreError(
                            f"{start}: the pattern follows more than {_MOST_NESTED_LINKS:,} links in linked folders; "
                            "name the folders themselves"
                        )
                open_folders.append((entry.path, reached, inside))


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


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
    if not WILDCARD.search(url):
        with suppress(KeyMissing):
            yield bucket.stat(url)
            return
    folder = WILDCARD.split(url, maxsplit=1)[0].rpartition("/")[0] if WILDCARD.search(url) else url.rstrip("/")
    patterns = [parse_pattern(each) for each in _across_folders(url.removeprefix(folder) if WILDCARD.search(url) else "**")]
    for found in bucket.list(folder):
        names = PurePosixPath(found.name.removeprefix(folder).lstrip("/")).parts
        if not any(name.startswith(".") for name in names) and any(pattern.matches(names) for pattern in patterns):
            yield found


def _across_folders(pattern: str) -> list[str]:
    """Split each `**` that is only a part of a segment into patterns where `**` is a whole segment.

    In a bucket, `a**b` matches both `a1b` and `a1/2/3b`.

    Raises StoreError for more than three such `**`: each doubles the number of patterns.
    """
    found = [""]
    inner = 0
    for segment in pattern.strip("/").split("/"):
        parts = segment.split("**") if segment != "**" else [segment]
        inner += len(parts) - 1
        if inner > _MOST_INNER_STARS:
            raise StoreError(f"{pattern}: at most {_MOST_INNER_STARS} `**` may stand beside other characters; write `**/` between folders")
        joined = [parts[0]]
        for part in parts[1:]:
            joined = [f"{each}{between}{part}" for each in joined for between in ("*", "*/**/*")]
        found = [f"{before}/{after}" for before in found for after in joined]
    return found


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
