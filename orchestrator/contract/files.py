"""Select the reader of a file by its name, and compute the fingerprint of a source from its files.

`orchestrator.study.sources` computes fingerprints for the planner, and `trainer.prepare` checks them before it reads. Both must agree on
which files of a folder are read, with which reader, and in which order. Pure: no file is opened.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final, NamedTuple, TypeAlias

from orchestrator.contract.identity import digest_of
from orchestrator.errors import ContractError


class FileKind(NamedTuple):
    """`reader`: how documents are read from the file. `language`: of source code, else ""."""

    reader: str
    language: str


FileTriple: TypeAlias = tuple[str, str, str]
"""(SHA-256 of the content, reader, language): the input of a fingerprint. File names and times are not part of it."""

JSON_LINES: Final = "jsonl"
JSON_LINES_GZ: Final = "jsonl.gz"
JSON_LINES_ZST: Final = "jsonl.zst"
PARQUET: Final = "parquet"
TEXT: Final = "text"
CODE: Final = "code"

_JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_TEXT_SUFFIXES: Final = (".txt", ".text", ".md", ".markdown", ".rst")

# Suffixes from GitHub Linguist's languages.yml, for the most common languages of code corpora.
_LANGUAGE_SUFFIXES: Final[dict[str, str]] = {
    "ada": ".adb .ads",
    "assembly": ".asm .s",
    "c": ".c .h",
    "c#": ".cs",
    "c++": ".cc .cpp .cxx .hh .hpp .hxx",
    "clojure": ".clj .cljs .cljc",
    "cmake": ".cmake",
    "cobol": ".cob .cbl",
    "css": ".css .scss .sass .less",
    "cuda": ".cu .cuh",
    "cython": ".pyx .pxd .pxi",
    "dart": ".dart",
    "elixir": ".ex .exs",
    "elm": ".elm",
    "erlang": ".erl .hrl",
    "f#": ".fs .fsx",
    "fortran": ".f .f90 .f95 .for",
    "go": ".go",
    "groovy": ".groovy .gradle",
    "haskell": ".hs .lhs",
    "html": ".html .htm .xhtml",
    "ini": ".cfg .ini",
    "java": ".java",
    "javascript": ".js .mjs .cjs .jsx",
    "julia": ".jl",
    "kotlin": ".kt .kts",
    "lisp": ".lisp .el .scm .rkt",
    "lua": ".lua",
    "nix": ".nix",
    "objective-c": ".m .mm",
    "ocaml": ".ml .mli",
    "pascal": ".pas .pp",
    "perl": ".pl .pm",
    "php": ".php",
    "powershell": ".ps1 .psm1",
    "protobuf": ".proto",
    "python": ".py .pyi .pyw",
    "r": ".r",
    "ruby": ".rb .rake",
    "rust": ".rs",
    "scala": ".scala .sbt",
    "shell": ".sh .bash .zsh .fish",
    "solidity": ".sol",
    "sql": ".sql",
    "swift": ".swift",
    "tcl": ".tcl",
    "terraform": ".tf",
    "tex": ".tex .sty .cls .bib",
    "toml": ".toml",
    "typescript": ".ts .tsx",
    "verilog": ".v .sv",
    "vhdl": ".vhd .vhdl",
    "vue": ".vue",
    "xml": ".xml .xsd .xsl .svg",
    "yaml": ".yaml .yml",
    "zig": ".zig",
}
# Source files identified by name instead of suffix.
_LANGUAGE_NAMES: Final = {
    "makefile": "makefile",
    "gnumakefile": "makefile",
    "dockerfile": "dockerfile",
    "rakefile": "ruby",
    "gemfile": "ruby",
}

_KINDS: Final[dict[str, FileKind]] = {
    **{suffix: FileKind(JSON_LINES, "") for suffix in _JSON_LINES_SUFFIXES},
    **{f"{suffix}.gz": FileKind(JSON_LINES_GZ, "") for suffix in _JSON_LINES_SUFFIXES},
    **{f"{suffix}.zst": FileKind(JSON_LINES_ZST, "") for suffix in _JSON_LINES_SUFFIXES},
    ".parquet": FileKind(PARQUET, ""),
    **{suffix: FileKind(TEXT, "") for suffix in _TEXT_SUFFIXES},
    **{suffix: FileKind(CODE, language) for language, suffixes in _LANGUAGE_SUFFIXES.items() for suffix in suffixes.split()},
}

READABLE: Final = ".jsonl or .json lines (plain, .gz, .zst), .parquet, .txt, .md, and source code such as .py, .c, .html"
"""The allowed file types of a source, for messages."""


def kind_of(name: str) -> FileKind | None:
    """Return the kind of the file with this name (a path or URL); None for an unknown type."""
    base = PurePosixPath(name).name.lower()
    if base in _LANGUAGE_NAMES:
        return FileKind(CODE, _LANGUAGE_NAMES[base])
    suffixes = PurePosixPath(base).suffixes
    return _KINDS.get("".join(suffixes[-2:])) or _KINDS.get("".join(suffixes[-1:]))


def fingerprint_of(files: Iterable[FileTriple]) -> str:
    """Return the fingerprint of a source as 64 hex digits. Duplicate files count twice. Raises ContractError if there are no files."""
    triples = in_reading_order(files)
    if not triples:
        raise ContractError("a source without files has no fingerprint")
    return digest_of([list(triple) for triple in triples])


def in_reading_order(files: Iterable[FileTriple]) -> list[FileTriple]:
    """Return the files of a source in the order in which `prepare` reads them."""
    return sorted(files)
