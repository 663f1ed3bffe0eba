"""The models as a tree that is indexed by paths in a file.

`orchestrator.spec.recovery` looks up what is valid at a path (to name what is missing, to suggest a key, to replace a broken value), and
`orchestrator.crd` writes it as a schema.
"""

from dataclasses import dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from orchestrator.spec.fields import Choice, Short, Text, Under
from orchestrator.spec.messages import Path
from orchestrator.spec.models import StudyObject
from orchestrator.spec.numbers import Quantity


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value; `types` are alternatives. `Anything` is left to Kubernetes."""

    types: "tuple[Quantity | Text | Choice | type[bool], ...]"


@dataclass(frozen=True, slots=True)
class Anything:
    """A value that is left to Kubernetes."""


@dataclass(frozen=True, slots=True)
class Listed:
    item: "Entry"
    fewest: int
    most: int


@dataclass(frozen=True, slots=True)
class Mapped:
    key: Text
    value: "Entry"
    fewest: int
    most: int


@dataclass(frozen=True, slots=True)
class Field:
    """A key of an object. `needed`: it has no default."""

    entry: "Entry"
    needed: bool
    description: str
    default: object


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping with known keys. `open`: other keys are no mistake (the object's metadata)."""

    name: str
    description: str
    fields: dict[str, Field]
    open: bool = False


@dataclass(frozen=True, slots=True)
class Either:
    """A value with several forms."""

    ways: "tuple[Entry, ...]"


Entry: TypeAlias = Leaf | Anything | Listed | Mapped | Fields | Either


@cache
def study_object() -> Fields:
    """Return the tree of a whole study file."""
    return fields_of(StudyObject)


@cache
def fields_of(model: type[BaseModel]) -> Fields:
    """Return the tree of one model."""
    hints = get_type_hints(model, include_extras=True)
    fields = {}
    for name, info in model.model_fields.items():
        fewest, most = _lengths(info.metadata)
        entry = _entry(hints[name], fewest, most)
        needed = info.is_required() and (model.__name__, name) != ("Stage", "kind")
        default = None if info.is_required() or info.default_factory is not None else info.default
        fields[info.alias or name] = Field(entry, needed, info.description or "", default)
    return Fields(model.__name__, _first_line(model), fields, model.model_config.get("extra") == "ignore")


def _entry(hint: Any, fewest: int = 0, most: int = 64) -> Entry:  # noqa: ANN401  (a type annotation has no common type)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], fewest, most)
    if origin in (Union, UnionType):
        ways = tuple(_entry(way, fewest, most) for way in arguments if way is not NoneType)
        return ways[0] if len(ways) == 1 else Either(ways)
    if origin is tuple:
        return Listed(_entry(arguments[0]), fewest, most)
    if origin is dict:
        key = _entry(arguments[0])
        assert isinstance(key, Leaf)
        assert isinstance(key.types[0], Text)
        return Mapped(key.types[0], _entry(arguments[1]), fewest, most)
    if hint is Any:
        return Anything()
    return Leaf((bool,)) if hint is bool else fields_of(hint)


def _annotated(inner: Any, metadata: tuple[object, ...], fewest: int, most: int) -> Entry:  # noqa: ANN401
    for mark in metadata:
        if isinstance(mark, (Quantity, Text, Choice)):
            return Leaf((mark,))
        if isinstance(mark, Short):
            long = fields_of(inner)
            kept = {key: replace(field, needed=True) for key, field in long.fields.items() if not mark.only or key in mark.only}
            return Either((Leaf(mark.types), Fields(long.name, long.description, kept)))
        if isinstance(mark, Under):
            return Fields("", "", {mark.key: Field(fields_of(inner), True, _first_line(inner), None)})
    return _entry(inner, fewest, most)


def _lengths(metadata: list[Any]) -> tuple[int, int]:
    fewest = next((mark.min_length for mark in metadata if hasattr(mark, "min_length")), 0)
    return fewest, next((mark.max_length for mark in metadata if hasattr(mark, "max_length")), 64)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def entries_at(path: Path, within: Entry | None = None) -> tuple[Entry, ...]:
    """Return the values that are allowed at `path`: none if the path is invalid, several if there are alternative forms."""
    entries: tuple[Entry, ...] = _ways(study_object() if within is None else within)
    for part in path:
        inner = [child for entry in entries if (child := _child(entry, part)) is not None]
        entries = tuple(way for entry in inner for way in _ways(entry))
    return entries


def _ways(entry: Entry) -> tuple[Entry, ...]:
    return entry.ways if isinstance(entry, Either) else (entry,)


def _child(entry: Entry, part: str | int) -> Entry | None:
    if isinstance(entry, Fields):
        field = entry.fields.get(str(part))
        return field.entry if field else None
    if isinstance(entry, Listed):
        return entry.item if isinstance(part, int) else None
    return entry.value if isinstance(entry, Mapped) else None


def field_at(path: Path) -> Field | None:
    """Return the field at the end of the path, or None if its last part is not a key of a known object."""
    for entry in entries_at(path[:-1]):
        if isinstance(entry, Fields) and path[-1] in entry.fields:
            return entry.fields[str(path[-1])]
    return None


def keys_at(path: Path) -> tuple[str, ...]:
    """Return the allowed keys of the mapping at `path`; empty if all keys are allowed."""
    return tuple(sorted(key for entry in entries_at(path) if isinstance(entry, Fields) for key in entry.fields))


def sound(entry: Entry) -> object:
    """Return a small valid value."""
    if isinstance(entry, Leaf):
        kind = entry.types[0]
        return kind.example.strip('"') if isinstance(kind, (Quantity, Text, Choice)) else False
    if isinstance(entry, Listed):
        return [sound(entry.item) for _ in range(entry.fewest)]
    if isinstance(entry, Mapped):
        return {entry.key.example: sound(entry.value)} if entry.fewest else {}
    if isinstance(entry, Fields):
        return {key: sound(field.entry) for key, field in entry.fields.items() if field.needed}
    return sound(entry.ways[0]) if isinstance(entry, Either) else {}


def example(entry: Entry) -> str:
    """Return how it is written in a file, for a message."""
    if isinstance(entry, Leaf):
        kind = entry.types[0]
        return kind.example if isinstance(kind, (Quantity, Text, Choice)) else "true"
    if isinstance(entry, Listed):
        return f"[{example(entry.item)}]"
    if isinstance(entry, Mapped):
        return f"{{{entry.key.example}: {example(entry.value)}}}"
    if isinstance(entry, Fields):
        return _example_of_object(entry)
    return example(entry.ways[0]) if isinstance(entry, Either) else "..."


def _example_of_object(entry: Fields) -> str:
    needed = {key: field.entry for key, field in entry.fields.items() if field.needed}
    brief = len(needed) > 2
    return f"{{{', '.join(f'{key}: ...' if brief else f'{key}: {example(inner)}' for key, inner in needed.items()) or '...'}}}"


def homes(key: str) -> list[Path]:
    """Return the objects of the tree that have this key, outermost first."""
    return sorted(_homes().get(key, []), key=len)


@cache
def _homes() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}

    def walk(entry: Entry, path: Path) -> None:
        if isinstance(entry, Fields):
            for key, field in entry.fields.items():
                found.setdefault(key, []).append(path)
                walk(field.entry, (*path, key))
        elif isinstance(entry, Listed):
            walk(entry.item, path)
        elif isinstance(entry, Either):
            for way in entry.ways:
                walk(way, path)

    walk(study_object(), ())
    return found
