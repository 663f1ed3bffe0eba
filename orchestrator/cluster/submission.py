"""Apply a study file to the cluster: create the object, change it, or leave it unchanged.

Called by `scaling-study submit`. The object's spec becomes that of the file, regardless of which tool wrote it before. Metadata that
Kubernetes or other users have set is kept. `spec.paused` is kept too (see `stop` and `resume`), unless the file sets it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.cluster.port import Cluster, Document
from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND
from orchestrator.errors import AlreadyExists, Conflict, NotFound

_MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of `submit`. `changes`: the paths that were changed. `body`: the object as the API returned it."""

    outcome: Literal["created", "changed", "unchanged"]
    changes: tuple[str, ...]
    body: Document


def object_to_send(values: Mapping[str, Any], namespace: str) -> Document:
    """Return the object for a parsed study file: name, labels, annotations and spec, without fields that only a server sets."""
    metadata = values["metadata"]
    kept = {key: metadata[key] for key in ("name", "labels", "annotations") if metadata.get(key)}
    return {
        "apiVersion": API_VERSION,
        "kind": OBJECT_KIND,
        "metadata": {**kept, "namespace": namespace},
        "spec": values["spec"],
    }


def submit(cluster: Cluster, wanted: Document, *, dry_run: bool = False) -> Submitted:
    """Create the object or change it to `wanted`; unknown fields are rejected. Raises Refused, NotFound, Conflict.

    `dry_run`: the API validates the request and persists nothing.
    """
    name = wanted["metadata"]["name"]
    for _ in range(_MAX_ATTEMPTS):
        existing = cluster.get("scalingstudies", name)
        try:
            if existing is None:
                return Submitted("created", (), cluster.create("scalingstudies", wanted, dry_run=dry_run))
            changes = changes_to(existing, wanted)
            if not changes:
                return Submitted("unchanged", (), existing)
            after = cluster.patch("scalingstudies", name, changes, dry_run=dry_run)
        except AlreadyExists:
            continue
        except NotFound:
            if existing is None:
                raise  # the namespace or the kind does not exist
            continue
        # a concurrent change may have been merged in: compare again
        if not changes_to(after, wanted):
            return Submitted("changed", tuple(changed_paths(existing, changes)), after)
    raise Conflict(f"{name} was changed by another client during {_MAX_ATTEMPTS} attempts to submit it; submit it again later")


def changes_to(existing: Document, wanted: Document) -> Document:
    """Return the JSON merge patch from `existing` to `wanted`, {} if there is no difference."""
    metadata = {}
    for key in ("labels", "annotations"):
        before, given = existing["metadata"].get(key) or {}, wanted["metadata"].get(key) or {}
        if new := {name: value for name, value in given.items() if before.get(name) != value}:
            metadata[key] = new
    spec = dict(wanted["spec"])
    if "paused" not in spec and "paused" in existing["spec"]:
        spec["paused"] = existing["spec"]["paused"]
    parts = {"metadata": metadata, "spec": merge_patch(existing["spec"], spec)}
    return {key: part for key, part in parts.items() if part}


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """Return the smallest JSON merge patch (RFC 7386) from `before` to `after`; neither may contain a null."""
    changes: Document = {key: None for key in before if key not in after}
    for key, value in after.items():
        known = before.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            if inner := merge_patch(known, value):
                changes[key] = inner
        elif key not in before or known != value:
            changes[key] = value
    return changes


def changed_paths(before: Mapping[str, Any], changes: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the paths that a patch changes (such as `spec.grid.sizes`), as deep as both sides are mappings."""
    for key, value in changes.items():
        path = f"{above}.{key}" if above else key
        known = before.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            yield from changed_paths(known, value, path)
        else:
            yield path
