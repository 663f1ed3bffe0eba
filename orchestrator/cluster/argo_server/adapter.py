"""The port over an Argo Server, for a token that may use Workflows and nothing else.

Workflows are the server's. What such a token does not reach is held here or told from them:

- The study's object, its status, events and leases live in this process. They may be lost at any time: plan, records and costs are in the
  store, what runs is in Workflows, and whoever starts the loop again gives the study its run number.
- Pods are told from the nodes of Workflows. A node is over when its Workflow is stopped while the process still writes its checkpoint:
  then only the lease in the store tells when that has ended.
- A pod cannot be deleted, so one that makes no step is restarted by stopping its Workflow: the loop submits what is left of it anew. A pod
  that its node has lost cannot be forced away either; it stays until the platform team or the node does something.
- There is no policy to read: what a namespace's ConfigMap forbids is not enforced here, and the rights of the token are what bounds it.

Listings come from the server's cache and may be some moments old. Names and uids make that harmless: what is created twice is refused by
its name, and only the very Workflow that was listed is deleted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

from orchestrator.cluster.argo_server.client import ArgoApi
from orchestrator.cluster.argo_server.nodes import pods_of
from orchestrator.cluster.argo_server.strict import unknown_fields
from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.cluster.port import Change, Document, Kind, Listing, StudyReference
from orchestrator.errors import ClusterUnavailable, NotThere, Refused, ScalingStudyError, TokenRefused
from orchestrator.reconcile.observe import LABEL_WORKFLOW

# inside the class `list` is a method
Documents: TypeAlias = list[Document]

_HELD: Final[tuple[Kind, ...]] = ("scalingstudies", "events")
_OVER: Final = ("Succeeded", "Failed", "Error")

# What a decision needs of a Workflow: its templates weigh more than all the rest
_READ: Final = ("metadata", "spec.shutdown", "status.phase", "status.message", "status.nodes")
# What a watch may be silent for longer than it was asked to last
_MARGIN_SECONDS: Final = 15


class Calls(Protocol):
    """What the adapter needs of `ArgoApi`."""

    def ask(self, call: str, **parameters: object) -> Document: ...
    def stream(self, call: str, read_seconds: float | None, **parameters: object) -> Iterator[Document]: ...


class ArgoServerCluster:
    """One namespace, through an Argo Server. `clock`: what time it is for the objects that no cluster keeps."""

    def __init__(self, api: Calls, namespace: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._namespace = namespace
        self._here = InMemoryCluster(namespace, clock)
        self._uids: dict[str, str] = {}
        self._listed: tuple[Mapping[str, str] | None, Documents] | None = None
        self._workflow_of: dict[str, str] = {}

    @property
    def namespace(self) -> str:
        return self._namespace

    # Reading

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        found = [*self.pages(kind, labels)]
        return Listing([body for page in found for body in page.items], found[-1].resource_version)

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        if kind in _HELD:
            yield from self._here.pages(kind, labels)
        elif kind == "workflows":
            yield from self._pages_of_workflows(labels)
        elif kind == "pods":
            yield Listing([pod for pod in self._take_pods(labels) if _has(pod, labels)], "")
        else:
            raise Refused(f"{kind} are out of reach of an Argo Server")

    def _pages_of_workflows(self, labels: Mapping[str, str] | None) -> Iterator[Listing]:
        """All in one answer, without what nobody here reads: the server's pages go by position in a list that changes meanwhile.

        The pods of what is listed are kept for whoever lists pods next, which belong to the same moment.
        """
        pods: Documents = []
        reading = {**_selector(labels), "fields": ",".join(("metadata", *_of("items", _READ)))}
        while True:
            page = self._api.ask("list_workflows", namespace=self._namespace, **reading)
            items, metadata = page.get("items") or [], page.get("metadata") or {}
            for body in items:
                body.setdefault("spec", {})
                self._note(body)
                pods += pods_of(body)
            yield Listing(items, metadata.get("resourceVersion") or "")
            if not (token := metadata.get("continue")):
                break
            reading["list_options_continue"] = token
        self._listed = labels, pods
        # it keeps account of its calls, for tests; this process may run for weeks
        self._here.calls.clear()
        self._workflow_of = {pod["metadata"]["name"]: pod["metadata"]["labels"][LABEL_WORKFLOW] for pod in pods}

    def _note(self, body: Document) -> None:
        self._uids[body["metadata"]["name"]] = body["metadata"]["uid"]

    def _take_pods(self, labels: Mapping[str, str] | None) -> Documents:
        if self._listed is None or self._listed[0] != labels:
            for _ in self._pages_of_workflows(None):
                pass
        assert self._listed is not None
        pods, self._listed = self._listed[1], None
        return pods

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        if kind in _HELD:
            yield from self._here.watch(kind, resource_version, labels, timeout_seconds)
            return
        if kind != "workflows":
            raise Refused(f"{kind} cannot be watched through an Argo Server")
        asked = {
            "list_options_resource_version": resource_version,
            "list_options_timeout_seconds": str(timeout_seconds),
            "fields": ",".join(("error", "result.type", *_of("result.object", _READ))),
            **_selector(labels),
        }
        try:
            for news in self._api.stream("watch_workflows", timeout_seconds + _MARGIN_SECONDS, namespace=self._namespace, **asked):
                if "object" in news:
                    yield news.get("type", "MODIFIED"), news["object"]
        except TokenRefused as problem:
            # whoever lists next is told; a watch is only a hint
            raise ClusterUnavailable(str(problem)) from problem

    def get(self, kind: Kind, name: str) -> Document | None:
        if kind in _HELD:
            return self._here.get(kind, name)
        if kind == "pods":
            return next((pod for pod in self.list("pods").items if pod["metadata"]["name"] == name), None)
        self._only_workflows(kind)
        try:
            body = self._api.ask("get_workflow", namespace=self._namespace, name=name)
        except NotThere:
            return None
        self._note(body)
        return body

    # Writing

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        if kind in _HELD:
            return self._here.create(kind, body, dry_run=dry_run)
        self._only_workflows(kind)
        sent = _without_owner(body)
        name = sent["metadata"]["name"]
        if wrong := unknown_fields(sent):
            raise Refused(f"workflows {name!r} is refused before it is sent: {'; '.join(wrong)}")
        try:
            made = self._api.ask(
                "create_workflow", namespace=self._namespace, body={"workflow": sent, **({"serverDryRun": True} if dry_run else {})}
            )
        except NotThere as problem:
            # the namespace is missing, or something that the Workflow names
            raise Refused(str(problem)) from problem
        if not dry_run:
            self._note(made)
        return made

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        if kind in _HELD:
            return self._here.patch(kind, name, changes, dry_run=dry_run)
        raise Refused(f"{kind} cannot be changed through an Argo Server")

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        if kind in _HELD:
            self._here.delete(kind, name)
        elif kind == "pods":
            if name in self._workflow_of:
                self.stop_workflow(self._workflow_of[name])
        else:
            self._only_workflows(kind)
            self._delete_workflow(name, force)

    def _delete_workflow(self, name: str, force: bool) -> None:
        """Only the one that was seen last: the server heeds no precondition, so it is looked at first."""
        seen = self._uids.get(name)
        with suppress(NotThere):
            found = self._api.ask("get_workflow", namespace=self._namespace, name=name, fields="metadata")
            if seen in (None, found["metadata"]["uid"]):
                self._api.ask("delete_workflow", namespace=self._namespace, name=name, force=force)

    def stop_workflow(self, name: str) -> None:
        try:
            self._api.ask("stop_workflow", namespace=self._namespace, name=name, body={"name": name, "namespace": self._namespace})
        except NotThere:
            return
        except ScalingStudyError:
            # the server refuses to stop what is over or stopped
            found = self.get("workflows", name)
            if found is not None and (found.get("status") or {}).get("phase") not in _OVER and not found["spec"].get("shutdown"):
                raise

    # What is held here

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        return self._here.patch_status(name, status, resource_version)

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._here.event(study, reason, message, is_warning=is_warning)

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        return self._here.acquire_lease(name, holder, seconds)

    def release_lease(self, name: str, holder: str) -> None:
        self._here.release_lease(name, holder)

    def read_config(self, name: str) -> dict[str, str] | None:
        return self._here.read_config(name)

    # Logs

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:
        """Needs the rights to list and watch pods and to get their logs, since the server asks with the token."""
        if pod not in self._workflow_of:
            self.list("pods")
        workflow = self._workflow_of.get(pod)
        if workflow is None:
            raise NotThere(f"pods {pod!r} not found")
        asked = {"name": workflow, "pod_name": pod, "log_options_container": container, "log_options_follow": follow}
        for line in self._api.stream("workflow_logs", None if follow else 30, namespace=self._namespace, **asked):
            yield str(line.get("content", ""))

    def _only_workflows(self, kind: Kind) -> None:
        if kind != "workflows":
            raise Refused(f"{kind} are out of reach of an Argo Server")


def connect(url: str, namespace: str, token: Callable[[], str], *, ca_file: str = "", verify: bool = True) -> ArgoServerCluster:
    """The namespace, after a look that all is as it must be. Raises ClusterError, TokenRefused: one message, and what to do."""
    if not url.startswith(("http://", "https://")):
        raise Refused(f"--argo-server {url}: write http:// or https:// in front of it, for example https://{url}")
    api = ArgoApi(url, token, ca_file=ca_file, verify=verify)
    api.version()
    cluster = ArgoServerCluster(api, namespace)
    try:
        api.ask("list_workflows", namespace=namespace, list_options_limit="1", fields="metadata")
    except Refused as problem:
        raise Refused(
            f"the token may not list Workflows in namespace {namespace!r}: {problem}\n"
            "    Check the name of the namespace. It takes the verbs create, get, list, watch, patch, update and delete on\n"
            "    workflows.argoproj.io there, which the platform team gives by a Role"
        ) from problem
    return cluster


def _selector(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {"list_options_label_selector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}


def _of(prefix: str, fields: tuple[str, ...]) -> Iterator[str]:
    return (f"{prefix}.{field}" for field in fields)


def _has(body: Document, labels: Mapping[str, str] | None) -> bool:
    found = body["metadata"].get("labels") or {}
    return all(found.get(key) == value for key, value in (labels or {}).items())


def _without_owner(body: Document) -> Document:
    """The study is no object of the cluster: a Workflow that names it as its owner would be cleared away as an orphan."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "ownerReferences"}
    return {**body, "metadata": metadata}
