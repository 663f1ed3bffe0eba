"""Find the documents of the demo's corpus: source files of the standard library, prose of the installed packages.

`corpus` writes what this yields. Nothing is imported, and the order depends on names alone. Docstrings of the standard library are not
used as text, since they are part of the code.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeAlias

from orchestrator.demo_corpus.prose import paragraphs, sameness

Document: TypeAlias = str
Definition: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Packages with long docstrings; of all others only the description is read, since parsing all of them takes minutes.
PACKAGES: Final = (
    "huggingface_hub", "matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sqlalchemy", "statsmodels", "sympy", "torch",
)  # fmt: skip
_NO_SOURCE: Final = frozenset({"test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "__pycache__"})
# Topics of pydoc are prose; the codecs are tables of characters.
_NO_CODE: Final = _NO_SOURCE | {"pydoc_data", "encodings", "_sysconfigdata"}

SHORTEST_DOCSTRING: Final = 200
"""Characters; shorter ones are a signature and a phrase."""

# Share of a file in long docstrings from which it is parsed.
_LEAST_DOCSTRING_SHARE: Final = 0.3
_DOCSTRING: Final = re.compile(rb'"""(.{%d,}?)"""' % SHORTEST_DOCSTRING, re.DOTALL)

SHORTEST_DOCUMENT: Final = 300
LONGEST_DOCUMENT: Final = 4000
"""Characters of a text document: paragraphs of a file are joined up to this length."""


def code_files(library: Path) -> Iterator[tuple[Path, str]]:
    """Yield name and content of the Python files below `library`, sorted by name, without empty files and invalid UTF-8."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not _NO_CODE.isdisjoint(parts) or parts[-1].startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield path.relative_to(library), text


def text_documents(library: Path, packages: Path, workers: int) -> Iterator[tuple[str, list[Document]]]:
    """Yield English documents by origin, without repeated paragraphs. `packages`: site-packages."""
    seen: set[str] = set()
    yield "python-topics", _documents([_topics(library)], seen)
    yield "descriptions", _documents(map(_description, _metadata_files(packages)), seen)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for package in PACKAGES:
            files = sorted(path for path in (packages / package).rglob("*.py") if _NO_SOURCE.isdisjoint(path.parts[len(packages.parts) :]))
            found = _documents(pool.map(docstring_paragraphs, files, chunksize=16), seen)
            if found:
                yield package, found


def docstring_paragraphs(file: Path) -> list[str]:
    """Return the prose in the long docstrings of a Python file, in file order; empty if it has few or cannot be parsed."""
    body = file.read_bytes()
    if sum(map(len, _DOCSTRING.findall(body))) < _LEAST_DOCSTRING_SHARE * len(body):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(body)
    except (SyntaxError, ValueError):
        return []
    return [paragraph for docstring in _docstrings(tree) for paragraph in paragraphs(docstring)]


def _docstrings(definition: Definition) -> Iterator[str]:
    docstring = ast.get_docstring(definition, clean=False)
    if docstring and len(docstring) >= SHORTEST_DOCSTRING:
        yield docstring
    for statement in definition.body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield from _added_docstrings(statement.value)


def _added_docstrings(call: ast.Call) -> Iterator[str]:
    """Yield docstrings that `add_docstr(torch.abs, "...")` and numpy's `add_newdoc` attach to objects written in C."""
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) >= SHORTEST_DOCSTRING:
            yield node.value


def _topics(library: Path) -> list[str]:
    """Return the prose of the language reference that `help()` shows, from pydoc_data/topics.py."""
    file = library / "pydoc_data" / "topics.py"
    if not file.exists():
        return []
    texts = (node.value for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Constant))
    return [paragraph for text in texts if isinstance(text, str) for paragraph in paragraphs(text)]


def _metadata_files(packages: Path) -> list[Path]:
    return sorted(packages.glob("*.dist-info/METADATA"))


def _description(metadata: Path) -> list[str]:
    """Return the prose of a package's description, which follows the headers of its METADATA."""
    text = metadata.read_text(encoding="utf-8", errors="replace")
    return paragraphs(text.partition("\n\n")[2])


def _documents(files: Iterable[list[str]], seen: set[str]) -> list[Document]:
    """Join the paragraphs of each file into documents of bounded length. Adds the keys of paragraphs to `seen`."""
    documents: list[Document] = []
    for found in files:
        fresh = [paragraph for paragraph in found if _is_new(paragraph, seen)]
        documents += [document for document in _joined(fresh) if len(document) >= SHORTEST_DOCUMENT]
    return documents


def _is_new(paragraph: str, seen: set[str]) -> bool:
    key = sameness(paragraph)
    if key in seen:
        return False
    seen.add(key)
    return True


def _joined(found: list[str]) -> Iterator[Document]:
    held: list[str] = []
    for paragraph in found:
        if held and sum(map(len, held)) + len(paragraph) > LONGEST_DOCUMENT:
            yield "\n\n".join(held)
            held = []
        held.append(paragraph)
    yield "\n\n".join(held)
