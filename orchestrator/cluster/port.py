"""What the loop needs of a cluster: one protocol, three adapters.

`kube` speaks to the Kubernetes API, `argo_server` to an Argo Server with a token, `memory_cluster` is the public double. `controller`
and the command line know only this. Objects are plain dicts as the API writes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, Protocol, TypeAlias

Document: TypeAlias = dict[str, Any]

Kind: TypeAlias = Literal["scalingstudies", "workflows", "pods", "nodes", "events", "jobsets"]
KINDS: Final[tuple[Kind, ...]] = ("scalingstudies", "workflows", "pods", "nodes", "events", "jobsets")
"""Everything that is asked for by kind. Nodes belong to no namespace and may be refused to us."""

Change: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one moment; a watch goes on from `resource_version`."""

    items: list[Document]
    resource_version: str


@dataclass(frozen=True, slots=True)
class StudyReference:
    """The object that an event is about."""

    name: str
    uid: str


def event_name(study: StudyReference, reason: str, message: str) -> str:
    """One name for one thing that is told of a study, however often and by whichever controller: that is how events are aggregated."""
    told = sha256(f"{study.uid}\n{reason}\n{message}".encode()).hexdigest()
    return f"{study.name}.{told[:16]}"


class Cluster(Protocol):
    """One namespace of a cluster.

    Every method raises ClusterUnavailable when the API is away, throttles us or fails on its side, whether or not the change was made:
    all of them may be repeated. Refused: what was asked is not allowed or not valid, and the same will not be accepted later either,
    unless a quota or a right changes.
    """

    @property
    def namespace(self) -> str:
        """The namespace that all of it is about."""

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        """Every object whose labels have these values. Raises Refused."""

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        """The same in pieces, for what is read and dropped: hundreds of Workflows weigh more than all that is kept of them.

        At least one page; each carries a version of the whole. Raises Refused, and Expired when reading took too long: begin again.
        """

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        """What changes after `resource_version`. May end at any time; bookmarks carry a newer version. Raises Expired: list again."""

    def get(self, kind: Kind, name: str) -> Document | None:
        """One object, None when it is not there."""

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        """Create it; an unknown field is a mistake. `dry_run`: all is checked, nothing is kept. Raises AlreadyExists, Refused."""

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        """Change a part of an object, None deletes a key (a JSON merge patch). `dry_run` as above. Raises NotThere, Refused."""

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        """Delete it and what it owns; one that is gone is fine. `force`: without waiting for the node that a pod is on."""

    def stop_workflow(self, name: str) -> None:
        """Ask a Workflow to shut down; one that is gone or over is fine."""

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        """Replace a study's status if the study is still at this version. Raises Conflict, NotThere."""

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Tell it on the study. The same reason and message again only raises the count of the event that is there."""

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        """Take or renew the lease: whether `holder` has it now."""

    def release_lease(self, name: str, holder: str) -> None:
        """Give the lease up at once, if `holder` has it."""

    def read_config(self, name: str) -> dict[str, str] | None:
        """The data of a ConfigMap, None when it is not there."""

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:
        """Lines of a container's log. Raises NotThere."""
