"""Files of a folder store: list them, and detect entries that are not regular files.

`bucket` calls it for folders. obstore's listing fails completely because of one symbolic link to itself or one name that is not UTF-8, and
its reads block on named pipes. Users and other programs can create all of these in a folder.
"""

import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from orchestrator.store.addresses import damaged_key
from orchestrator.store.objects import Stat

# obstore (object_store's LocalFileSystem) writes NAME#1 and renames it
STAGED: Final = re.compile(r"#\d+$")
_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Links that follow one another; Linux allows 40
_MOST_LINKS: Final = 40


def list_files(root: Path, prefix: str) -> Iterator[Stat]:
    """Yield the objects in the folder `prefix` of the store at `root`.

    A name with a dot is always listed as an object: reading a folder or a link in its place raises Damaged. Links to folders
    without a dot are followed, except into a folder that contains them. Names that are not UTF-8 are skipped: see `unreadable_names`.
    """
    open_folders: list[tuple[str, str, frozenset[str]]] = [(str(root / prefix) if prefix else str(root), prefix, frozenset())]
    while open_folders:
        folder, key, links = open_folders.pop()
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            if STAGED.search(entry.name) or not _is_utf8(entry.name):
                continue
            own_key = f"{key}/{entry.name}" if key else entry.name
            followed = _followed(entry, links) if "." not in entry.name else None
            if followed is not None:
                open_folders.append((entry.path, own_key, followed))
            elif (found := _stat(entry, own_key)) is not None:
                yield found


def _followed(entry: "os.DirEntry[str]", passed: frozenset[str]) -> frozenset[str] | None:
    """Return the links on the path into a folder; None if the entry is not a folder, or links back to a folder on its path."""
    if not entry.is_symlink():
        return passed if entry.is_dir() else None
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself
        return None
    passed |= {os.path.realpath(Path(entry.path).parent)}
    return passed if is_folder and not leads_back(entry.path, passed) and len(passed) <= _MOST_LINKS else None


def leads_back(link: str, passed: Iterable[str]) -> bool:
    """Return whether a link leads to a folder that contains one of `passed`, so that following it would not terminate."""
    target = os.path.realpath(link).rstrip("/") + "/"
    return any(f"{folder}/".startswith(target) for folder in passed)


def _stat(entry: "os.DirEntry[str]", key: str) -> Stat | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # deleted since the folder was listed
        return None
    modified = _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    return Stat(key, status.st_size, modified, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def unreadable_names(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root` and escaped, of files and folders whose names are not UTF-8."""
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            if not _is_utf8(name):
                yield os.fsencode(Path(folder, name).relative_to(root)).decode(errors="backslashreplace")
        folders[:] = filter(_is_utf8, folders)


def irregularity(root: Path, key: str) -> str:
    """Return what is at `key` if it is not a regular file; "" for a regular file or no entry."""
    path = root / key
    if not _is_key(key):
        return ""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return ""
    if not stat.S_ISLNK(mode):
        return _KINDS.get(stat.S_IFMT(mode), "a device")
    target = path.readlink()
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a cycle of links
        return f"a symbolic link to {target}, which cannot be read"
    if not real.is_relative_to(root.resolve()):
        return f"a symbolic link out of the store, to {target}"
    return "" if real.is_file() else f"a symbolic link to {target}, which is not a file"


def checked_key(key: str) -> str:
    """Return the key. Raises ValueError for one that obstore would reject, such as `../x`."""
    if not _is_key(key):
        raise ValueError(key)
    return key


def _is_key(key: str) -> bool:
    """Return whether the key has no segment like `..`. obstore rejects other invalid keys."""
    return all(segment.strip(".") for segment in key.split("/"))


def set_folder_aside(root: Path, key: str) -> bool:
    """Move a folder that has the key of an object to damaged/; return whether there was one."""
    path = root / key
    if not _is_key(key) or path.is_symlink() or not path.is_dir():
        return False
    aside = root / damaged_key(key, uuid.uuid4().hex[:12])
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.rename(aside)
    return True
