"""The models as a structural schema.

What a structural schema cannot express is checked by the controller: values with a short and a long form (`tokens`, `seeds`, settings by
size) and the keys of maps are not checked here. Rules across several fields are in `rules`, as far as CEL can express them.
"""

from decimal import Decimal
from typing import Any, Final

from orchestrator.spec.fields import Choice, Text
from orchestrator.spec.messages import Path
from orchestrator.spec.model_tree import Anything, Either, Entry, Fields, Leaf, Listed, Mapped
from orchestrator.spec.numbers import LARGEST_PLAIN, Quantity

Schema = dict[str, Any]

# The longest number that anybody needs: 18 digits before the point, 17 after it, an exponent
LONGEST_NUMBER: Final = 48


def schema_of(entry: Entry, rules: dict[Path, list[Schema]], path: Path = ()) -> Schema:
    """Return the schema of an entry. `rules`: CEL rules by path, `"*"` for any entry of a list or map."""
    schema = _plain(entry, rules, path)
    return {**schema, "x-kubernetes-validations": rules[path]} if path in rules else schema


def _plain(entry: Entry, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    if isinstance(entry, Leaf):
        return _leaf(entry)
    if isinstance(entry, Listed):
        items = schema_of(entry.item, rules, (*path, "*"))
        return {"type": "array", "minItems": entry.fewest, "maxItems": entry.most, "x-kubernetes-list-type": "atomic", "items": items}
    if isinstance(entry, Mapped):
        values = schema_of(entry.value, rules, (*path, "*"))
        return {"type": "object", "minProperties": entry.fewest, "maxProperties": entry.most, "additionalProperties": values}
    if isinstance(entry, Fields):
        return _object(entry, rules, path)
    return _either(entry, rules, path) if isinstance(entry, Either) else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(entry: Fields, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    properties = {}
    for key, field in entry.fields.items():
        inner = schema_of(field.entry, rules, (*path, key))
        properties[key] = {"description": field.description, **inner} if not isinstance(field.entry, Anything) else inner
    needed = [key for key, field in entry.fields.items() if field.needed]
    return {"type": "object", **({"required": needed} if needed else {}), "properties": properties}


def _either(entry: Either, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    if all(isinstance(way, Fields) for way in entry.ways):
        fields = {key: field for way in entry.ways if isinstance(way, Fields) for key, field in way.fields.items()}
        return {key: value for key, value in _object(Fields("", "", fields), rules, path).items() if key != "required"}
    leaves = [kind for way in entry.ways if isinstance(way, Leaf) for kind in way.types]
    if any(not isinstance(way, Leaf) for way in entry.ways):
        return {"x-kubernetes-preserve-unknown-fields": True}
    patterns = [kind.pattern.removeprefix("^").removesuffix("$") for kind in leaves if isinstance(kind, (Text, Quantity))]
    return _int_or_string("|".join(f"({pattern})" for pattern in patterns), [kind for kind in leaves if isinstance(kind, Quantity)])


def _leaf(entry: Leaf) -> Schema:
    kind = entry.types[0]
    if isinstance(kind, Choice):
        return {"type": "string", "enum": [str(word) for word in kind.words]}
    if isinstance(kind, Text):
        return {"type": "string", "minLength": 1, "maxLength": kind.longest, "pattern": f"^({kind.pattern})$"}
    if isinstance(kind, Quantity) and kind.plain:
        return _int_or_string(kind.pattern.removeprefix("^").removesuffix("$"), [kind])
    if isinstance(kind, Quantity):
        return {"type": "string", "maxLength": LONGEST_NUMBER, "pattern": kind.pattern}
    return {"type": "boolean"}


def _int_or_string(pattern: str, quantities: list[Quantity]) -> Schema:
    schema: Schema = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    schema |= {"maxLength": LONGEST_NUMBER, "pattern": f"^({pattern})$"}
    lowest = [quantity.low for quantity in quantities if quantity.low is not None]
    highest = [quantity.high for quantity in quantities if quantity.high is not None]
    if lowest:
        schema["minimum"] = int(min(lowest)) + (1 if any(quantity.above for quantity in quantities) else 0)
    schema["maximum"] = min(int(max(highest, default=Decimal(LARGEST_PLAIN))), LARGEST_PLAIN)
    return schema
