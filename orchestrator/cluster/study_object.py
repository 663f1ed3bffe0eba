"""A `ScalingStudy` of a cluster as people ask for it: found by its name or a clear word, and what its status says.

The commands that look at a study on a cluster, or change one, begin here. It knows the port and no adapter.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.cluster.port import Cluster, Document
from orchestrator.errors import ClusterError, NotThere, Refused
from orchestrator.spec.fields import LABEL
from orchestrator.spec.messages import did_you_mean, listed

OVER: Final = ("Succeeded", "Failed", "Refused")
"""Phases that only a person's edit or retry ends."""

_NOT_INSTALLED: Final = (
    "this cluster does not know what a ScalingStudy is: scaling-study is not installed there.\n"
    "    Whoever runs the cluster installs it with: kubectl apply -k manifests/overlays/one-node (or production)"
)
# What an API server says of a kind that it does not know: as plain text for the group, as a Status for the kind
_UNKNOWN_KIND: Final = ("404 page not found", "could not find the requested resource")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the controller says of a study as it is now: `unseen` before it has looked, `planning` while files are read."""

    word: Literal["unseen", "planning", "planned", "refused"]
    message: str = ""


def find_object(cluster: Cluster, name: str) -> Document:
    """The study called `name`. Raises NotThere, whose message names what is there instead, and ClusterError."""
    if not re.fullmatch(LABEL.pattern, name):
        raise NotThere(f"{name!r} is neither a file nor the name of a study: {LABEL.allowed}")
    body = cluster.get("scalingstudies", name)
    if body is None:
        names = sorted(found["metadata"]["name"] for found in cluster.list("scalingstudies").items)
        there = f"There are: {listed(names)}." if names else "There is none; `submit FILE` begins one, -n names another namespace."
        raise NotThere(f"no study in namespace {cluster.namespace} is called {name!r}.\n    {did_you_mean(name, names, there)}")
    return body


def status_of(body: Document) -> Mapping[str, Any]:
    """What the controller has written, {} before it has."""
    found: Mapping[str, Any] = body.get("status") or {}
    return found


def generation_of(body: Document) -> int:
    """How often the study was edited."""
    return int(body["metadata"].get("generation", 1))


def condition_of(body: Document, kind: str) -> Mapping[str, Any] | None:
    """A condition of the study as it is now; one that was said before its last edit does not count."""
    for entry in status_of(body).get("conditions") or ():
        if entry["type"] == kind and entry.get("observedGeneration", 0) >= generation_of(body):
            found: Mapping[str, Any] = entry
            return found
    return None


def phase_of(body: Document) -> str:
    """One word for the whole; "" before the controller has looked at the study as it is now."""
    status = status_of(body)
    return str(status.get("phase", "")) if int(status.get("observedGeneration", 0)) >= generation_of(body) else ""


def why_not_accepted(body: Document) -> str:
    """Why nobody may open the store that a study names, "" when the controller has accepted the study as it is now."""
    accepted = condition_of(body, "Accepted")
    if accepted is None:
        return "the controller has not looked at it yet"
    return "" if accepted["status"] == "True" else f"{accepted['reason']}: {accepted['message']}"


def verdict_of(body: Document) -> Verdict:
    """Whether the study may run, and why not."""
    accepted, planned = condition_of(body, "Accepted"), condition_of(body, "Planned")
    if accepted is not None and accepted["status"] == "False":
        return Verdict("refused", f"{accepted['reason']}: {accepted['message']}")
    if planned is None:
        return Verdict("unseen")
    if planned["status"] == "True":
        return Verdict("planned", planned["message"])
    if planned["reason"] == "Fingerprinting":
        return Verdict("planning", planned["message"])
    return Verdict("refused", f"{planned['reason']}: {planned['message']}")


@contextmanager
def clear_words(namespace: str) -> Iterator[None]:
    """Around whatever asks a cluster: the errors that a person can mend are raised with what mends them."""
    try:
        yield
    except Refused as problem:
        raise Refused(f"{problem}{_mend(str(problem), namespace)}") from problem
    except NotThere as problem:
        if any(words in str(problem) for words in _UNKNOWN_KIND):
            raise ClusterError(_NOT_INSTALLED) from problem
        if f'namespaces "{namespace}" not found' in str(problem):
            raise NotThere(f"the cluster has no namespace {namespace!r}; -n names another one") from problem
        raise


def _mend(told: str, namespace: str) -> str:
    if "forbidden: User" in told:
        return (
            f"\n    In namespace {namespace} you may not do that. Whoever runs the cluster binds the Role scaling-study-researcher to you"
            " (manifests/components/researchers)"
        )
    if told.strip() == "Unauthorized":
        return ": the cluster does not know who you are. Log in again, or set KUBECONFIG to a file with a token that still holds"
    return ""
