"""Convert the models to a structural schema (OpenAPI v3, as a CustomResourceDefinition requires).

The controller checks what a structural schema cannot express: values with a short and a long form (`tokens`, `seeds`, settings by size)
and the keys of maps. Rules across several fields are in `rules`, as far as CEL can express them.
"""

from decimal import Decimal
from typing import Any, Final

from orchestrator.spec.fields import Choice, Text
from orchestrator.spec.messages import Path
from orchestrator.spec.model_tree import AnyValue, Entry, Fields, Leaf, ListOf, MapOf, OneOf
from orchestrator.spec.numbers import MAX_SAFE_INTEGER, Quantity

Schema = dict[str, Any]

# Characters of the longest valid number: 18 digits, a point, 17 digits and an exponent, with some reserve
MAX_NUMBER_LENGTH: Final = 48


def schema_of(entry: Entry, rules: dict[Path, list[Schema]], path: Path = ()) -> Schema:
    """Return the schema of an entry. `rules`: CEL rules by path, `"*"` for any entry of a list or map."""
    schema = _plain(entry, rules, path)
    return {**schema, "x-kubernetes-validations": rules[path]} if path in rules else schema


def _plain(entry: Entry, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    if isinstance(entry, Leaf):
        return _leaf(entry)
    if isinstance(entry, ListOf):
        items = schema_of(entry.item, rules, (*path, "*"))
        return {
            "type": "array",
            "minItems": entry.min_items,
            "maxItems": entry.max_items,
            "x-kubernetes-list-type": "atomic",
            "items": items,
        }
    if isinstance(entry, MapOf):
        values = schema_of(entry.value, rules, (*path, "*"))
        return {"type": "object", "minProperties": entry.min_items, "maxProperties": entry.max_items, "additionalProperties": values}
    if isinstance(entry, Fields):
        return _object(entry, rules, path)
    return _either(entry, rules, path) if isinstance(entry, OneOf) else {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(entry: Fields, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    properties = {}
    for key, field in entry.fields.items():
        inner = schema_of(field.entry, rules, (*path, key))
        properties[key] = {"description": field.description, **inner} if not isinstance(field.entry, AnyValue) else inner
    required = [key for key, field in entry.fields.items() if field.required]
    return {"type": "object", **({"required": required} if required else {}), "properties": properties}


def _either(entry: OneOf, rules: dict[Path, list[Schema]], path: Path) -> Schema:
    if all(isinstance(form, Fields) for form in entry.forms):
        fields = {key: field for form in entry.forms if isinstance(form, Fields) for key, field in form.fields.items()}
        return {key: value for key, value in _object(Fields("", "", fields), rules, path).items() if key != "required"}
    leaves = [kind for form in entry.forms if isinstance(form, Leaf) for kind in form.types]
    if any(not isinstance(form, Leaf) for form in entry.forms):
        return {"x-kubernetes-preserve-unknown-fields": True}
    patterns = [kind.pattern.removeprefix("^").removesuffix("$") for kind in leaves if isinstance(kind, (Text, Quantity))]
    return _int_or_string("|".join(f"({pattern})" for pattern in patterns), [kind for kind in leaves if isinstance(kind, Quantity)])


def _leaf(entry: Leaf) -> Schema:
    kind = entry.types[0]
    if isinstance(kind, Choice):
        return {"type": "string", "enum": [str(word) for word in kind.words]}
    if isinstance(kind, Text):
        return {"type": "string", "minLength": 1, "maxLength": kind.max_length, "pattern": f"^({kind.pattern})$"}
    if isinstance(kind, Quantity) and kind.allow_integer:
        return _int_or_string(kind.pattern.removeprefix("^").removesuffix("$"), [kind])
    if isinstance(kind, Quantity):
        return {"type": "string", "maxLength": MAX_NUMBER_LENGTH, "pattern": kind.pattern}
    return {"type": "boolean"}


def _int_or_string(pattern: str, quantities: list[Quantity]) -> Schema:
    schema: Schema = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    schema |= {"maxLength": MAX_NUMBER_LENGTH, "pattern": f"^({pattern})$"}
    lowest = [quantity.low for quantity in quantities if quantity.low is not None]
    highest = [quantity.high for quantity in quantities if quantity.high is not None]
    if lowest:
        schema["minimum"] = int(min(lowest)) + (1 if any(quantity.above for quantity in quantities) else 0)
    schema["maximum"] = min(int(max(highest, default=Decimal(MAX_SAFE_INTEGER))), MAX_SAFE_INTEGER)
    return schema
