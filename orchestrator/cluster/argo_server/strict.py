"""Find unknown fields of a Workflow before it is sent.

An Argo Server silently drops unknown fields, so that a misspelt limit or selector would have no effect. The package's models are generated
from Argo's schema, but their own validation accepts unknown keys; their attribute tables are therefore read here.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from inspect import isclass

from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow import IoArgoprojWorkflowV1alpha1Workflow
from argo_workflows.model_utils import ModelNormal

from orchestrator.cluster.port import Document


def unknown_fields(workflow: Document) -> list[str]:
    """Return a line for each unknown field, and for each field that must be an object or a list but is not."""
    return list(_in_model(workflow, IoArgoprojWorkflowV1alpha1Workflow, ""))


def _in_model(value: object, model: type[ModelNormal], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f'"{path}" must be an object'
        return
    names = {written: name for name, written in model.attribute_map.items()}
    for key, inner in value.items():
        here = f"{path}.{key}" if path else key
        if key not in names:
            near = get_close_matches(key, names, 1)
            yield f'unknown field "{here}"' + (f' (did you mean "{near[0]}"?)' if near else "")
        elif inner is not None:
            yield from _in_types(inner, model.openapi_types[names[key]], here)


def _in_types(value: object, types: Sequence[object], path: str) -> Iterator[str]:
    """Check a value against `types`: (Model,), ([Model],) or ({str: (Model,)},). Plain types are left to the server."""
    for kind in types:
        if isinstance(kind, list):
            yield from _in_list(value, tuple(kind), path)
        elif isinstance(kind, dict):
            yield from _in_mapping(value, kind[str], path)
        elif isclass(kind) and issubclass(kind, ModelNormal):
            yield from _in_model(value, kind, path)


def _in_list(value: object, types: Sequence[object], path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f'"{path}" must be a list'
        return
    for number, item in enumerate(value):
        yield from _in_types(item, types, f"{path}[{number}]")


def _in_mapping(value: object, types: Sequence[object], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f'"{path}" must be an object'
        return
    for key, item in value.items():
        yield from _in_types(item, types, f"{path}.{key}")
