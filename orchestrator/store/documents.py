"""Parse the JSON documents of the store. Records are parsed by `orchestrator.contract.record`.

Bytes in a store may be truncated, replaced, or nested so deeply that `json` raises RecursionError. Every such document raises Damaged,
which names its key.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import Damaged

Model = TypeVar("Model", bound=BaseModel)


def parse_object(body: bytes, key: str, what: str) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises Damaged: "KEY is not WHAT: ..."."""
    try:
        found = json.loads(body)
    except RecursionError:
        raise Damaged(f"{key} is not {what}: its JSON is nested too deeply") from None
    except ValueError as problem:
        raise Damaged(f"{key} is not {what}: {problem}") from problem
    if not isinstance(found, dict):
        raise Damaged(f"{key} is not {what}: it holds a JSON {type(found).__name__}, not an object")
    return found


def parse_model(model: type[Model], body: bytes, key: str, what: str) -> Model:
    """Return the document in `body` as a model. Raises Damaged: "KEY is not WHAT: FIELD: ..."."""
    try:
        return model.model_validate_json(body)
    except (ValidationError, RecursionError) as problem:
        raise Damaged(f"{key} is not {what}: {_first_mistake(problem)}") from problem


def _first_mistake(problem: ValidationError | RecursionError) -> str:
    if isinstance(problem, RecursionError):
        return "its JSON is nested too deeply"
    first = problem.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else str(first["msg"])
