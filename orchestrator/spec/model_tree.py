"""The models as a tree that is indexed by paths in a file.

`orchestrator.spec.recovery` looks up the valid keys and values at a path (to suggest a key, to replace an invalid value), and
`orchestrator.crd` converts the tree to a schema.
"""

from dataclasses import dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from orchestrator.spec.fields import Choice, ShortForm, Text, UnderKey
from orchestrator.spec.messages import Path
from orchestrator.spec.models import StudyObject
from orchestrator.spec.numbers import Quantity


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar. `types`: its alternative types."""

    types: "tuple[Quantity | Text | Choice | type[bool], ...]"


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A value of any type, which Kubernetes defines (the status)."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: "Entry"
    min_items: int
    max_items: int


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping with arbitrary keys."""

    key: Text
    value: "Entry"
    min_items: int
    max_items: int


@dataclass(frozen=True, slots=True)
class Field:
    """A key of an object. `required`: whether it has no default."""

    entry: "Entry"
    required: bool
    description: str
    default: object


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with known keys. `open`: whether unknown keys are allowed (the object's metadata)."""

    name: str
    description: str
    fields: dict[str, Field]
    open: bool = False


@dataclass(frozen=True, slots=True)
class OneOf:
    """A value with several alternative forms."""

    forms: "tuple[Entry, ...]"


Entry: TypeAlias = Leaf | AnyValue | ListOf | MapOf | Fields | OneOf


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
        min_items, max_items = _lengths(info.metadata)
        entry = _entry(hints[name], min_items, max_items)
        required = info.is_required() and (model.__name__, name) != ("Stage", "kind")
        default = None if info.is_required() or info.default_factory is not None else info.default
        fields[info.alias or name] = Field(entry, required, info.description or "", default)
    return Fields(model.__name__, _first_line(model), fields, model.model_config.get("extra") == "ignore")


def _entry(hint: Any, min_items: int = 0, max_items: int = 64) -> Entry:  # noqa: ANN401  (a type annotation has no common type)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], min_items, max_items)
    if origin in (Union, UnionType):
        forms = tuple(_entry(form, min_items, max_items) for form in arguments if form is not NoneType)
        return forms[0] if len(forms) == 1 else OneOf(forms)
    if origin is tuple:
        return ListOf(_entry(arguments[0]), min_items, max_items)
    if origin is dict:
        key = _entry(arguments[0])
        assert isinstance(key, Leaf)
        assert isinstance(key.types[0], Text)
        return MapOf(key.types[0], _entry(arguments[1]), min_items, max_items)
    if hint is Any:
        return AnyValue()
    return Leaf((bool,)) if hint is bool else fields_of(hint)


def _annotated(inner: Any, metadata: tuple[object, ...], min_items: int, max_items: int) -> Entry:  # noqa: ANN401
    for mark in metadata:
        if isinstance(mark, (Quantity, Text, Choice)):
            return Leaf((mark,))
        if isinstance(mark, ShortForm):
            long = fields_of(inner)
            kept = {key: replace(field, required=True) for key, field in long.fields.items() if not mark.only or key in mark.only}
            return OneOf((Leaf(mark.types), Fields(long.name, long.description, kept)))
        if isinstance(mark, UnderKey):
            return Fields("", "", {mark.key: Field(fields_of(inner), True, _first_line(inner), None)})
    return _entry(inner, min_items, max_items)


def _lengths(metadata: list[Any]) -> tuple[int, int]:
    min_items = next((mark.min_length for mark in metadata if hasattr(mark, "min_length")), 0)
    return min_items, next((mark.max_length for mark in metadata if hasattr(mark, "max_length")), 64)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def entries_at(path: Path, within: Entry | None = None) -> tuple[Entry, ...]:
    """Return the values that are allowed at `path`: none if the path is invalid, several if there are alternative forms."""
    entries: tuple[Entry, ...] = _forms(study_object() if within is None else within)
    for part in path:
        inner = [child for entry in entries if (child := _child(entry, part)) is not None]
        entries = tuple(form for entry in inner for form in _forms(entry))
    return entries


def _forms(entry: Entry) -> tuple[Entry, ...]:
    return entry.forms if isinstance(entry, OneOf) else (entry,)


def _child(entry: Entry, part: str | int) -> Entry | None:
    if isinstance(entry, Fields):
        field = entry.fields.get(str(part))
        return field.entry if field else None
    if isinstance(entry, ListOf):
        return entry.item if isinstance(part, int) else None
    return entry.value if isinstance(entry, MapOf) else None


def field_at(path: Path) -> Field | None:
    """Return the field at the end of the path, or None if its last part is not a key of a known object."""
    for entry in entries_at(path[:-1]):
        if isinstance(entry, Fields) and path[-1] in entry.fields:
            return entry.fields[str(path[-1])]
    return None


def keys_at(path: Path) -> tuple[str, ...]:
    """Return the allowed keys of the mapping at `path`; empty if all keys are allowed."""
    return tuple(sorted(key for entry in entries_at(path) if isinstance(entry, Fields) for key in entry.fields))


def minimal_value(entry: Entry) -> object:
    """Return a minimal valid value."""
    if isinstance(entry, Leaf):
        kind = entry.types[0]
        return kind.example.strip('"') if isinstance(kind, (Quantity, Text, Choice)) else False
    if isinstance(entry, ListOf):
        return [minimal_value(entry.item) for _ in range(entry.min_items)]
    if isinstance(entry, MapOf):
        return {entry.key.example: minimal_value(entry.value)} if entry.min_items else {}
    if isinstance(entry, Fields):
        return {key: minimal_value(field.entry) for key, field in entry.fields.items() if field.required}
    return minimal_value(entry.forms[0]) if isinstance(entry, OneOf) else {}


def example(entry: Entry) -> str:
    """Return an example as written in a file, for a message."""
    if isinstance(entry, Leaf):
        kind = entry.types[0]
        return kind.example if isinstance(kind, (Quantity, Text, Choice)) else "true"
    if isinstance(entry, ListOf):
        return f"[{example(entry.item)}]"
    if isinstance(entry, MapOf):
        return f"{{{entry.key.example}: {example(entry.value)}}}"
    if isinstance(entry, Fields):
        return _example_of_object(entry)
    return example(entry.forms[0]) if isinstance(entry, OneOf) else "..."


def _example_of_object(entry: Fields) -> str:
    required = {key: field.entry for key, field in entry.fields.items() if field.required}
    brief = len(required) > 2
    return f"{{{', '.join(f'{key}: ...' if brief else f'{key}: {example(inner)}' for key, inner in required.items()) or '...'}}}"


def parents_of(key: str) -> list[Path]:
    """Return the paths of all objects that have this key, outermost first."""
    return sorted(_parents_by_key().get(key, []), key=len)


@cache
def _parents_by_key() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}

    def walk(entry: Entry, path: Path) -> None:
        if isinstance(entry, Fields):
            for key, field in entry.fields.items():
                found.setdefault(key, []).append(path)
                walk(field.entry, (*path, key))
        elif isinstance(entry, ListOf):
            walk(entry.item, path)
        elif isinstance(entry, OneOf):
            for form in entry.forms:
                walk(form, path)

    walk(study_object(), ())
    return found
