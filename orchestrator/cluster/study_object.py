"""Find a `ScalingStudy` object by name, interpret its status, and explain the cluster's errors.

Used by the commands that read or change a study on a cluster. Depends on the port, not on an adapter.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from orchestrator.cluster.port import Cluster, Document
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.errors import ClusterError, NotFound, Refused
from orchestrator.spec.fields import LABEL
from orchestrator.spec.messages import did_you_mean, format_list

TERMINAL_PHASES: Final = ("Succeeded", "Failed", "Refused")
"""Phases that only an edit or a retry by a user ends."""

RUN_NUMBER: Final = re.compile(r"[0-9]{1,15}")
"""A run number in the `retry` annotation. It also fits into a label and into the status."""

_NOT_INSTALLED: Final = (
    "the cluster has no resource type ScalingStudy: scaling-study is not installed there.\n"
    "    A cluster administrator installs it with: kubectl apply -k manifests/overlays/one-node (or production)"
)
# The API server's replies for an unknown API group (plain text) and for an unknown kind (a Status)
_UNKNOWN_KIND_MESSAGES: Final = ("404 page not found", "could not find the requested resource")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The controller's verdict on the current generation: `unseen` before its first reconcile, `planning` while input files are read."""

    state: Literal["unseen", "planning", "planned", "refused"]
    message: str = ""


def retry_requested(body: Document) -> str:
    """Return the run number that the `retry` annotation requests, as text; "" without one. A valid text matches RUN_NUMBER."""
    return str((body["metadata"].get("annotations") or {}).get(ANNOTATION_RETRY, ""))


def find_object(cluster: Cluster, name: str) -> Document:
    """Return the study called `name`. Raises NotFound with a list of the existing studies, and ClusterError."""
    if not re.fullmatch(LABEL.pattern, name):
        raise NotFound(f"{name!r} is neither a file nor the name of a study: {LABEL.allowed}")
    body = cluster.get("scalingstudies", name)
    if body is None:
        names = sorted(found["metadata"]["name"] for found in cluster.list("scalingstudies").items)
        there = (
            f"Existing studies: {format_list(names)}." if names else "There is none: create one with `submit FILE`, or use -n NAMESPACE."
        )
        raise NotFound(f"no study in namespace {cluster.namespace} is called {name!r}.\n    {did_you_mean(name, names, there)}")
    return body


def status_of(body: Document) -> Mapping[str, Any]:
    """Return the status of a study, {} before the controller has written one."""
    found: Mapping[str, Any] = body.get("status") or {}
    return found


def generation_of(body: Document) -> int:
    """Return the generation of a study, which increases with every change of its spec."""
    return int(body["metadata"].get("generation", 1))


def condition_of(body: Document, kind: str) -> Mapping[str, Any] | None:
    """Return a condition of the study's current generation, or None. Conditions of earlier generations are ignored."""
    for entry in status_of(body).get("conditions") or ():
        if entry["type"] == kind and entry.get("observedGeneration", 0) >= generation_of(body):
            found: Mapping[str, Any] = entry
            return found
    return None


def phase_of(body: Document) -> str:
    """Return the phase of the current generation, "" before the controller has reconciled it."""
    status = status_of(body)
    return str(status.get("phase", "")) if int(status.get("observedGeneration", 0)) >= generation_of(body) else ""


def why_not_accepted(body: Document) -> str:
    """Return why the study's store must not be opened, or "" if the controller has accepted the current generation."""
    accepted = condition_of(body, "Accepted")
    if accepted is None:
        return "the controller has not reconciled it yet"
    return "" if accepted["status"] == "True" else f"{accepted['reason']}: {accepted['message']}"


def verdict_of(body: Document) -> Verdict:
    """Return whether the study may run, and the reason if not."""
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
def explain_errors(namespace: str) -> Iterator[None]:
    """Re-raise cluster errors; if the user can fix the error, its message explains how."""
    try:
        yield
    except Refused as problem:
        raise Refused(f"{problem}{_remedy(str(problem), namespace)}") from problem
    except NotFound as problem:
        if any(words in str(problem) for words in _UNKNOWN_KIND_MESSAGES):
            raise ClusterError(_NOT_INSTALLED) from problem
        if f'namespaces "{namespace}" not found' in str(problem):
            raise NotFound(f"the cluster has no namespace {namespace!r}; use -n to select another one") from problem
        raise


def _remedy(message: str, namespace: str) -> str:
    if "forbidden: User" in message:
        return (
            f"\n    You lack this permission in namespace {namespace}. Ask a cluster administrator to bind the Role"
            " scaling-study-researcher to your account (manifests/components/researchers)"
        )
    if message.strip() == "Unauthorized":
        return ": the cluster did not accept your credentials. Log in again, or set KUBECONFIG to a file with a valid token"
    return ""
