"""Messages for values that do not fit their fields, in place of pydantic's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.spec.messages import Finding, Path, did_you_mean, listed, shown, written_path
from orchestrator.spec.model_tree import Leaf, Listed, Mapped, entries_at, example, field_at, homes, keys_at


@dataclass(frozen=True, slots=True)
class Misfit:
    """A pydantic error with its path in the file and the value there. `given` is the key itself if the key is wrong."""

    kind: str
    path: Path
    given: object
    context: Mapping[str, Any]
    said: str
    present: tuple[str, ...]

    @property
    def known_keys(self) -> tuple[str, ...]:
        """Return the allowed keys, for an unknown key."""
        return (self.context["beside"],) if self.kind == "beside" else keys_at(self.path[:-1])

    @property
    def is_unknown_key(self) -> bool:
        return self.kind in ("extra_forbidden", "beside")


def finding_of(misfit: Misfit) -> Finding:
    """Return the message for a misfit."""
    wrong, write = _SAID.get(misfit.kind, _unforeseen)(misfit)
    return Finding(misfit.path, wrong, write)


def _missing(misfit: Misfit) -> tuple[str, str]:
    info = field_at(misfit.path)
    if info is None:
        return "this is missing.", "Give it."
    if misfit.path[-1] == "kind" and "stages" in misfit.path:
        wrong = "this is missing; only a first stage, and one called continue or cooldown, can do without it."
        return wrong, "Write kind: continue, or kind: cooldown"
    return f"this is missing. {info.description}", f"Write {misfit.path[-1]}: {example(info.entry)}"


def _unknown(misfit: Misfit) -> tuple[str, str]:
    key, holder = misfit.path[-1], misfit.path[:-1]
    elsewhere = [home for home in homes(str(key)) if home != tuple(part for part in holder if isinstance(part, str))]
    advice = f"It belongs under {written_path(elsewhere[0]) or 'the top of the file'}." if elsewhere else "Take it away."
    name = written_path(tuple(part for part in holder if isinstance(part, str))[-1:]) or "the file"
    known = misfit.known_keys
    if misfit.kind == "beside" and misfit.context["beside"] in misfit.present:
        return f"this cannot stand beside {misfit.context['beside']}.", "Take one of the two away."
    return f"this is not a key of {name} ({listed(known, 16)}).", did_you_mean(
        key, [word for word in known if word not in misfit.present], advice
    )


def _value(misfit: Misfit) -> tuple[str, str]:
    context = misfit.context
    because = f": {context['because']}" if context["because"] else ""
    advice = f"Did you mean {context['meant']}?" if context["meant"] else f"Write for example {context['example']}."
    return f"{shown(misfit.given)} is not {context['allowed']}{because}.", advice


def _choice(misfit: Misfit) -> tuple[str, str]:
    words = misfit.context["words"]
    if len(words) == 1:
        return f"{shown(misfit.given)} is not {words[0]}.", f"Write {words[0]}."
    return f"{shown(misfit.given)} is not one of {listed(words)}.", did_you_mean(misfit.given, words, "Write one of these.")


def _not_mapping(misfit: Misfit) -> tuple[str, str]:
    keys = keys_at(misfit.path)
    return _wanted(misfit, f"a mapping with the keys {listed(keys, 16)}" if keys else "a mapping")


def _not_list(misfit: Misfit) -> tuple[str, str]:
    return _wanted(misfit, "a list")


def _wanted(misfit: Misfit, wanted: str) -> tuple[str, str]:
    entries = entries_at(misfit.path)
    written = example(entries[0]) if entries else "a value"
    one_leaf = bool(entries) and isinstance(entries[0], Listed) and isinstance(entries[0].item, Leaf)
    if one_leaf and isinstance(misfit.given, (str, int)):
        written = f"[{misfit.given}]"
    return f"{shown(misfit.given)} is not {wanted}.", f"Write {_key(misfit.path)}{written}"


def _not_boolean(misfit: Misfit) -> tuple[str, str]:
    return f"{shown(misfit.given)} is not true or false.", "Write true or false, without quotes."


def _too_short(misfit: Misfit) -> tuple[str, str]:
    entry = next((entry for entry in entries_at(misfit.path) if isinstance(entry, (Listed, Mapped))), None)
    info = field_at(misfit.path)
    otherwise = ", or leave the key out." if info is not None and not info.needed else ""
    return "this is empty; it needs at least one entry.", f"Write {_key(misfit.path)}{example(entry) if entry else '...'}{otherwise}"


def _key(path: Path) -> str:
    return f"{path[-1]}: " if path and isinstance(path[-1], str) else ""


def _too_long(misfit: Misfit) -> tuple[str, str]:
    count = len(misfit.given) if isinstance(misfit.given, (list, Mapping)) else "too many"
    return f"this has {count} entries; at most {misfit.context.get('max_length')} are allowed.", "Take some away."


def _no_tokenizer(misfit: Misfit) -> tuple[str, str]:
    advice = "Write tokenizer: {file: tokenizer.json}, or tokenizer: {train: {vocabulary: 50304, bytes: 10G, weights: {...}}}"
    return f"{shown(misfit.given)} is not a tokenizer.", advice


def _unforeseen(misfit: Misfit) -> tuple[str, str]:
    return f"{shown(misfit.given)} cannot stand here: {misfit.said}.", "Compare it with an example study."


_SAID: Final[dict[str, Callable[[Misfit], tuple[str, str]]]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "beside": _unknown,
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
