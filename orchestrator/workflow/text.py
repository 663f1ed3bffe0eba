"""Plain documents as YAML text, fast: 10,000 Workflows in seconds where a general dumper takes a minute.

Blocks are YAML's, scalars are JSON's, which YAML 1.2 reads alike. Called by `render`; equal documents give equal bytes.
"""

import json
import marshal
import re
from functools import lru_cache
from typing import Any, Final

# JSON leaves these as they are; YAML takes them for line breaks or refuses them
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

# Where the lists stand whose entries are large and alike
_TEMPLATES: Final = "  "

# What YAML 1.1 reads as a truth or as nothing
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def to_yaml(document: dict[str, Any]) -> str:
    """A document of dictionaries, lists, text, whole numbers, booleans and None as YAML that reads back equal."""
    lines: list[str] = []
    _mapping(document, "", "", lines)
    lines.append("")
    return "\n".join(lines)


def _mapping(document: dict[str, Any], first: str, indent: str, lines: list[str]) -> None:
    """`first`: what stands before the first key, `indent` before the others: they differ where a mapping is an entry of a list."""
    before = first
    for key, value in document.items():
        if isinstance(value, (dict, list)) and value:
            lines.append(f"{before}{_key(key)}:")
            if isinstance(value, dict):
                _mapping(value, indent + "  ", indent + "  ", lines)
            else:
                _sequence(value, indent, lines)
        else:
            lines.append(f"{before}{_key(key)}: {_scalar(value)}")
        before = indent


def _sequence(items: list[Any], indent: str, lines: list[str]) -> None:
    for item in items:
        if indent == _TEMPLATES and isinstance(item, dict) and item:
            lines.append(_remembered(marshal.dumps(item, 0), indent))
        elif isinstance(item, dict) and item:
            _mapping(item, f"{indent}- ", indent + "  ", lines)
        else:
            lines.append(f"{indent}- {_scalar(item)}")


# Thousands of Workflows share all their keys, most of their values, and templates as a whole


@lru_cache(256)
def _remembered(item: bytes, indent: str) -> str:
    """An entry of a list, given by its bytes: equal ones are written once."""
    lines: list[str] = []
    _mapping(marshal.loads(item), f"{indent}- ", indent + "  ", lines)
    return "\n".join(lines)


@lru_cache(1024)
def _key(key: str) -> str:
    return key if key.isidentifier() and key.lower() not in _WORDS else _text(key)


@lru_cache(4096)
def _text(text: str) -> str:
    return _json(text)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _json(value)


def _json(value: object) -> str:
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
