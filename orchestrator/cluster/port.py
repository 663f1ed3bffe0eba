"""The cluster operations that the control loop needs: one protocol with three adapters.

`kubernetes_api` calls the Kubernetes API, `argo_server` calls an Argo Server with a bearer token, and `memory` is the public test double.
The controller and the command line depend only on this protocol. Objects are plain dicts in the API's JSON form.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, Protocol, TypeAlias

from orchestrator.contract.vocabulary import OBJECT_KIND

Document: TypeAlias = dict[str, Any]

Kind: TypeAlias = Literal["scalingstudies", "gpuaccounts", "workflows", "pods", "nodes", "events", "jobsets"]
KINDS: Final[tuple[Kind, ...]] = ("scalingstudies", "gpuaccounts", "workflows", "pods", "nodes", "events", "jobsets")
"""The resource kinds that can be requested. Nodes are cluster-scoped, so access to them may be denied."""

Change: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one resource version, from which a watch can continue."""

    items: list[Document]
    resource_version: str


@dataclass(frozen=True, slots=True)
class StudyReference:
    """The ScalingStudy object that an event refers to, or an object of another `kind` of this system."""

    name: str
    uid: str
    kind: str = OBJECT_KIND


def event_name(study: StudyReference, reason: str, message: str) -> str:
    """Return the name of an event: the same study, reason and message give the same name, so that repeated events are aggregated."""
    digest = sha256(f"{study.uid}\n{reason}\n{message}".encode()).hexdigest()
    return f"{study.name}.{digest[:16]}"


class Cluster(Protocol):
    """One namespace of a cluster.

    Every method raises ClusterUnavailable if the API is unreachable, throttles the request or returns a server error. The change may have
    been made nevertheless; every method is safe to retry. Methods raise Refused if the request is forbidden or invalid; a retry does not
    help until a quota or a permission changes.
    """

    @property
    def namespace(self) -> str:
        """The namespace of all namespaced objects."""

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        """Return every object with these labels. Raises Refused."""

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        """Yield the objects of `list` in pages (at least one page), so that they need not all be in memory at once.

        Each page has the resource version of the whole listing. Raises Refused, and Expired if reading took too long (list again).
        """

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        """Yield changes after `resource_version`. The stream may end at any time. Bookmarks carry a newer version. Raises Expired."""

    def get(self, kind: Kind, name: str) -> Document | None:
        """Return one object, or None if it does not exist."""

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        """Create an object, rejecting unknown fields; `dry_run` only validates. Raises AlreadyExists, Refused."""

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        """Apply a JSON merge patch (None deletes a key); `dry_run` only validates. Raises NotFound, Refused.

        With `metadata.resourceVersion`, raises Conflict if the object was changed since.
        """

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        """Delete an object and its dependents, if it exists. `force` does not wait for confirmation from the pod's node."""

    def stop_workflow(self, name: str) -> None:
        """Request the shutdown of a Workflow. Does nothing if it is finished or does not exist."""

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        """Replace a study's status if its resource version is unchanged. Raises Conflict, NotFound."""

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Record an event on a study. Repeating a reason and message increments the count of the existing event."""

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        """Acquire or renew the lease. Return whether `holder` holds it now."""

    def release_lease(self, name: str, holder: str) -> None:
        """Release the lease immediately if `holder` holds it."""

    def read_config(self, name: str) -> dict[str, str] | None:
        """Return the data of a ConfigMap, or None if it does not exist."""

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:
        """Yield the lines of a container's log. Raises NotFound."""
