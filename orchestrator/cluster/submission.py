"""What a study file asks of the object on a cluster: nothing there yet, a change, or nothing at all.

`scaling-study submit` calls it. The object's spec becomes what the file says, whoever wrote it before and by which tool; what Kubernetes
and other people keep in its metadata stays. Whether a study is paused is a person's decision (`stop`, `resume`) unless the file says it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.cluster.port import Cluster, Document
from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND
from orchestrator.errors import AlreadyExists, Conflict, NotThere

_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Submitted:
    """`changes`: paths in the object that are other than before. `body`: the object as the API has it now."""

    what: Literal["created", "changed", "unchanged"]
    changes: tuple[str, ...]
    body: Document


def object_to_send(values: Mapping[str, Any], namespace: str) -> Document:
    """The object of a file that has been read: its name, labels, annotations and spec, and nothing that only a server writes."""
    metadata = values["metadata"]
    kept = {key: metadata[key] for key in ("name", "labels", "annotations") if metadata.get(key)}
    return {
        "apiVersion": API_VERSION,
        "kind": OBJECT_KIND,
        "metadata": {**kept, "namespace": namespace},
        "spec": values["spec"],
    }


def submit(cluster: Cluster, wanted: Document, *, dry_run: bool = False) -> Submitted:
    """Create the object or change it to what is wanted, unknown fields being mistakes. Raises Refused, NotThere, Conflict.

    `dry_run`: the API checks everything and keeps nothing.
    """
    name = wanted["metadata"]["name"]
    for _ in range(_TRIES):
        standing = cluster.get("scalingstudies", name)
        try:
            if standing is None:
                return Submitted("created", (), cluster.create("scalingstudies", wanted, dry_run=dry_run))
            changes = changes_to(standing, wanted)
            if not changes:
                return Submitted("unchanged", (), standing)
            after = cluster.patch("scalingstudies", name, changes, dry_run=dry_run)
        except AlreadyExists:
            continue
        except NotThere:
            if standing is None:
                raise  # not the object is missing but its namespace or its kind
            continue
        # what somebody else changed in the same moment is there too: look again
        if not changes_to(after, wanted):
            return Submitted("changed", tuple(changed_paths(standing, changes)), after)
    raise Conflict(f"{name} is changed by somebody else at the same time, again and again; submit it again when they are done")


def changes_to(standing: Document, wanted: Document) -> Document:
    """The JSON merge patch that makes of the object what is wanted, {} when it is."""
    metadata = {}
    for key in ("labels", "annotations"):
        before, given = standing["metadata"].get(key) or {}, wanted["metadata"].get(key) or {}
        if new := {name: value for name, value in given.items() if before.get(name) != value}:
            metadata[key] = new
    spec = dict(wanted["spec"])
    if "paused" not in spec and "paused" in standing["spec"]:
        spec["paused"] = standing["spec"]["paused"]
    parts = {"metadata": metadata, "spec": merge_patch(standing["spec"], spec)}
    return {key: part for key, part in parts.items() if part}


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """The smallest patch (RFC 7386) that turns `before` into `after`; neither holds a null."""
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
    """`spec.grid.sizes`, `spec.budget`: where a patch changes something, as deep as both sides are mappings."""
    for key, value in changes.items():
        path = f"{above}.{key}" if above else key
        known = before.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            yield from changed_paths(known, value, path)
        else:
            yield path
