"""Write the demo's corpus into a folder, once, with its manifest last.

`scaling-study demo-corpus` calls this. The same installation gives the same bytes. A complete corpus is never rewritten, even if packages
have changed since: studies that read it depend on it.
"""

import hashlib
import json
import os
import platform
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.demo_corpus.gather import code_files, text_documents
from orchestrator.errors import ScalingStudyError

VERSION: Final = 1
"""Increase this when the written files change; an older corpus is then rejected, not replaced."""

MANIFEST: Final = "manifest.json"
UNFINISHED: Final = "unfinished"


@dataclass(frozen=True, slots=True)
class Corpus:
    """The content of the folder. `written`: False if it existed before. Bytes count the documents in UTF-8."""

    folder: Path
    code_documents: int
    code_bytes: int
    text_documents: int
    text_bytes: int
    written: bool = True


@dataclass(frozen=True, slots=True)
class _Part:
    documents: int
    bytes: int
    files: dict[str, str]


def write_corpus(folder: Path, *, library: Path | None = None, packages: Path | None = None, workers: int | None = None) -> Corpus:
    """Write `folder`/code and `folder`/text, or do nothing if they are complete.

    `library`, `packages`: by default those of this Python. Raises ScalingStudyError for a folder with other files in it and for an
    installation without prose.
    """
    if there := _whole(folder):
        return there
    _begin(folder)
    library = library or Path(sysconfig.get_path("stdlib"))
    packages = packages or Path(sysconfig.get_path("purelib"))
    code = _write_code(folder, library)
    text = _write_text(folder, library, packages, workers or _cores())
    _write_manifest(folder, code, text)
    return Corpus(folder, code.documents, code.bytes, text.documents, text.bytes)


def _whole(folder: Path) -> Corpus | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        corpus = Corpus(folder, **manifest["counts"], written=False)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise _not_ours(folder, f"{MANIFEST} is not one that this command wrote") from None
    if manifest["version"] != VERSION:
        raise _not_ours(folder, f"it is of version {manifest['version']}, this installation writes {VERSION}")
    if changed := [name for name, digest in manifest["files"].items() if _digest_of_file(folder / name) != digest]:
        raise _not_ours(folder, f"{len(changed)} of its files are missing or changed, the first is {changed[0]}")
    return corpus


def _not_ours(folder: Path, why: str) -> ScalingStudyError:
    return ScalingStudyError(f"{folder}: {why}.\n    Name another folder, or remove this one and run the command again.")


def _begin(folder: Path) -> None:
    """Mark the folder as a demo corpus and delete what an interrupted run has written. Other files are never deleted."""
    if folder.exists() and any(folder.iterdir()) and not (folder / UNFINISHED).exists():
        raise _not_ours(folder, "it has files in it and no manifest of a demo corpus")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    for part in ("code", "text"):
        if (folder / part).exists():
            shutil.rmtree(folder / part)


def _write_code(folder: Path, library: Path) -> _Part:
    bodies = {f"code/{path.as_posix()}": text.encode() for path, text in code_files(library)}
    return _Part(len(bodies), sum(map(len, bodies.values())), _write_files(folder, bodies))


def _write_text(folder: Path, library: Path, packages: Path, workers: int) -> _Part:
    origins = {f"text/{origin}.jsonl": documents for origin, documents in text_documents(library, packages, workers) if documents}
    bodies = {name: "".join(map(_line, documents)).encode() for name, documents in origins.items()}
    documents = [document for found in origins.values() for document in found]
    return _Part(len(documents), sum(len(document.encode()) for document in documents), _write_files(folder, bodies))


def _line(document: str) -> str:
    return json.dumps({"text": document}, ensure_ascii=False) + "\n"


def _write_files(folder: Path, bodies: dict[str, bytes]) -> dict[str, str]:
    for name, body in bodies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}


def _write_manifest(folder: Path, code: _Part, text: _Part) -> None:
    if not code.documents or not text.documents:
        missing = "English prose in the installed packages" if code.documents else "source files in the standard library"
        cure = "Install this project with its `local` extra in an environment of its own and run the command again."
        raise ScalingStudyError(f"{folder}: found no {missing}.\n    {cure}")
    counts = {"code_documents": code.documents, "code_bytes": code.bytes, "text_documents": text.documents, "text_bytes": text.bytes}
    manifest: dict[str, Any] = {"version": VERSION, "python": platform.python_version(), "counts": counts, "files": code.files | text.files}
    part = folder / UNFINISHED
    part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    part.rename(folder / MANIFEST)


def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
