"""Messages for invalid fields, in place of pydantic's.

`orchestrator.spec.recovery` calls `finding_of` for every pydantic error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.spec.messages import Finding, Path, did_you_mean, format_list, format_path, format_value
from orchestrator.spec.model_tree import Leaf, ListOf, MapOf, entries_at, example, field_at, keys_at, parents_of


@dataclass(frozen=True, slots=True)
class FieldError:
    """A pydantic error with its path in the file.

    `given`: the value there, or the key itself if the key is invalid. `present`: the keys of the parent.
    """

    kind: str
    path: Path
    given: object
    context: Mapping[str, Any]
    message: str
    present: tuple[str, ...]

    @property
    def known_keys(self) -> tuple[str, ...]:
        """Return the allowed keys, for an unknown key."""
        return (self.context["allowed_key"],) if self.kind == "unexpected_key" else keys_at(self.path[:-1])

    @property
    def is_unknown_key(self) -> bool:
        return self.kind in ("extra_forbidden", "unexpected_key")


def finding_of(error: FieldError) -> Finding:
    """Return the message for an invalid field."""
    wrong, advice = _MESSAGES.get(error.kind, _other_error)(error)
    return Finding(error.path, wrong, advice)


def _missing(error: FieldError) -> tuple[str, str]:
    info = field_at(error.path)
    if info is None:
        return "this is missing.", "Add it."
    if error.path[-1] == "kind" and "stages" in error.path:
        wrong = "this is missing; only the first stage, and stages named continue or cooldown, have a default."
        return wrong, "Write kind: continue, or kind: cooldown"
    return f"this is missing. {info.description}", f"Write {error.path[-1]}: {example(info.entry)}"


def _unknown(error: FieldError) -> tuple[str, str]:
    key, holder = error.path[-1], error.path[:-1]
    elsewhere = [parent for parent in parents_of(str(key)) if parent != tuple(part for part in holder if isinstance(part, str))]
    advice = f"It belongs under {format_path(elsewhere[0]) or 'the top of the file'}." if elsewhere else "Remove it."
    name = format_path(tuple(part for part in holder if isinstance(part, str))[-1:]) or "the file"
    known = error.known_keys
    if error.kind == "unexpected_key" and error.context["allowed_key"] in error.present:
        return f"this cannot be combined with {error.context['allowed_key']}.", "Remove one of the two."
    return f"this is not a key of {name} ({format_list(known, 16)}).", did_you_mean(
        key, [word for word in known if word not in error.present], advice
    )


def _value(error: FieldError) -> tuple[str, str]:
    context = error.context
    because = f": {context['because']}" if context["because"] else ""
    advice = f"Did you mean {context['suggestion']}?" if context["suggestion"] else f"Write for example {context['example']}."
    return f"{format_value(error.given)} is not {context['allowed']}{because}.", advice


def _choice(error: FieldError) -> tuple[str, str]:
    words = error.context["words"]
    if len(words) == 1:
        return f"{format_value(error.given)} is not {words[0]}.", f"Write {words[0]}."
    return f"{format_value(error.given)} is not one of {format_list(words)}.", did_you_mean(error.given, words, "Write one of these.")


def _not_mapping(error: FieldError) -> tuple[str, str]:
    keys = keys_at(error.path)
    return _wrong_type(error, f"a mapping with the keys {format_list(keys, 16)}" if keys else "a mapping")


def _not_list(error: FieldError) -> tuple[str, str]:
    return _wrong_type(error, "a list")


def _wrong_type(error: FieldError, expected: str) -> tuple[str, str]:
    entries = entries_at(error.path)
    example_text = example(entries[0]) if entries else "a value"
    one_leaf = bool(entries) and isinstance(entries[0], ListOf) and isinstance(entries[0].item, Leaf)
    if one_leaf and isinstance(error.given, (str, int)):
        example_text = f"[{error.given}]"
    return f"{format_value(error.given)} is not {expected}.", f"Write {_key(error.path)}{example_text}"


def _not_boolean(error: FieldError) -> tuple[str, str]:
    return f"{format_value(error.given)} is not true or false.", "Write true or false, without quotes."


def _too_short(error: FieldError) -> tuple[str, str]:
    entry = next((entry for entry in entries_at(error.path) if isinstance(entry, (ListOf, MapOf))), None)
    info = field_at(error.path)
    otherwise = ", or remove the key." if info is not None and not info.required else ""
    return "this is empty; at least one entry is required.", f"Write {_key(error.path)}{example(entry) if entry else '...'}{otherwise}"


def _key(path: Path) -> str:
    return f"{path[-1]}: " if path and isinstance(path[-1], str) else ""


def _too_long(error: FieldError) -> tuple[str, str]:
    count = len(error.given) if isinstance(error.given, (list, Mapping)) else "too many"
    return f"this has {count} entries; at most {error.context.get('max_length')} are allowed.", "Remove some."


def _no_tokenizer(error: FieldError) -> tuple[str, str]:
    advice = "Write tokenizer: {file: tokenizer.json}, or tokenizer: {train: {vocabulary: 50304, bytes: 10G, weights: {...}}}"
    return f"{format_value(error.given)} is not a tokenizer.", advice


def _other_error(error: FieldError) -> tuple[str, str]:
    return f"{format_value(error.given)} is not allowed here: {error.message}.", "Compare it with an example study."


_MESSAGES: Final[dict[str, Callable[[FieldError], tuple[str, str]]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "unexpected_key": _unknown,
    "value": _value,
    "choice": _choice,
    "model_type": _not_mapping,
    "model_attributes_type": _not_mapping,
    "dict_type": _not_mapping,
    "mapping_type": _not_mapping,
    "tuple_type": _not_list,
    "bool_type": _not_boolean,
    "too_short": _too_short,
    "too_long": _too_long,
    "union_tag_not_found": _no_tokenizer,
    "union_tag_invalid": _no_tokenizer,
}
