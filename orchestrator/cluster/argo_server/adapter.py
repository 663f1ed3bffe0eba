"""The `Cluster` protocol over an Argo Server, for a token that may only use Workflows.

Workflows are read from and written to the server. Everything else is kept in this process or derived from Workflows:

- The study's object, its status, events and leases are kept in this process and may be lost at any time. Plan, records and costs are in
  the store, and running work is in Workflows. The caller that restarts the loop passes the run number again.
- Pods are derived from the nodes of Workflows. When a Workflow is stopped, Argo marks its nodes as finished while a pod may still write
  its checkpoint; only the lease in the store shows when the pod has ended.
- Pods cannot be deleted. A stalled pod is restarted by stopping its Workflow; the loop then submits the remaining tasks again. A pod on a
  lost node cannot be force-deleted; it stays until the platform team removes it or the node recovers.
- The namespace's policy ConfigMap cannot be read and is not enforced here. The permissions of the token are the limit.

Listings come from the server's cache and may be slightly stale. This is safe: a duplicate Workflow is rejected because of its name, and
a Workflow is deleted only if its uid is the listed one.
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
from orchestrator.errors import ClusterUnavailable, NotFound, Refused, ScalingStudyError, TokenRefused
from orchestrator.reconcile.observed import LABEL_WORKFLOW

# an alias, because `list` is a method inside the class
Documents: TypeAlias = list[Document]

_LOCAL_KINDS: Final[tuple[Kind, ...]] = ("scalingstudies", "gpuaccounts", "events")
_FINISHED: Final = ("Succeeded", "Failed", "Error")

# The fields that reconciling reads; the omitted templates are most of a Workflow's size
_FIELDS: Final = ("metadata", "spec.shutdown", "status.phase", "status.message", "status.nodes")
# Added to the requested duration of a watch; after that without data, the connection is considered lost
_MARGIN_SECONDS: Final = 15


class WorkflowApi(Protocol):
    """The methods of `ArgoApi` that the adapter uses."""

    def request(self, call: str, **parameters: object) -> Document: ...
    def stream(self, call: str, read_seconds: float | None, **parameters: object) -> Iterator[Document]: ...


class ArgoServerCluster:
    """One namespace, accessed through an Argo Server. `clock`: used for the objects that are kept in this process."""

    def __init__(self, api: WorkflowApi, namespace: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._namespace = namespace
        self._local = InMemoryCluster(namespace, clock)
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
        if kind in _LOCAL_KINDS:
            yield from self._local.pages(kind, labels)
        elif kind == "workflows":
            yield from self._pages_of_workflows(labels)
        elif kind == "pods":
            yield Listing([pod for pod in self._take_pods(labels) if _has_labels(pod, labels)], "")
        else:
            raise Refused(f"{kind} cannot be accessed through an Argo Server")

    def _pages_of_workflows(self, labels: Mapping[str, str] | None) -> Iterator[Listing]:
        """Yield all Workflows, with the fields in _FIELDS only.

        No page size is requested, because the server pages by position in a list that may change between two requests. The pods of these
        Workflows are kept for the next listing of pods, so that both listings are consistent.
        """
        pods: Documents = []
        parameters = {**_selector(labels), "fields": ",".join(("metadata", *_prefixed("items", _FIELDS)))}
        while True:
            page = self._api.request("list_workflows", namespace=self._namespace, **parameters)
            items, metadata = page.get("items") or [], page.get("metadata") or {}
            for body in items:
                body.setdefault("spec", {})
                self._remember_uid(body)
                pods += pods_of(body)
            yield Listing(items, metadata.get("resourceVersion") or "")
            if not (token := metadata.get("continue")):
                break
            parameters["list_options_continue"] = token
        self._listed = labels, pods
        # the recorded calls are for tests only and would grow without bound
        self._local.calls.clear()
        self._workflow_of = {pod["metadata"]["name"]: pod["metadata"]["labels"][LABEL_WORKFLOW] for pod in pods}

    def _remember_uid(self, body: Document) -> None:
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
        if kind in _LOCAL_KINDS:
            yield from self._local.watch(kind, resource_version, labels, timeout_seconds)
            return
        if kind != "workflows":
            raise Refused(f"{kind} cannot be watched through an Argo Server")
        parameters = {
            "list_options_resource_version": resource_version,
            "list_options_timeout_seconds": str(timeout_seconds),
            "fields": ",".join(("error", "result.type", *_prefixed("result.object", _FIELDS))),
            **_selector(labels),
        }
        try:
            for change in self._api.stream("watch_workflows", timeout_seconds + _MARGIN_SECONDS, namespace=self._namespace, **parameters):
                if "object" in change:
                    yield change.get("type", "MODIFIED"), change["object"]
        except TokenRefused as problem:
            # the next listing raises TokenRefused; a watch is only an optimization
            raise ClusterUnavailable(str(problem)) from problem

    def get(self, kind: Kind, name: str) -> Document | None:
        if kind in _LOCAL_KINDS:
            return self._local.get(kind, name)
        if kind == "pods":
            return next((pod for pod in self.list("pods").items if pod["metadata"]["name"] == name), None)
        self._require_workflows(kind)
        try:
            body = self._api.request("get_workflow", namespace=self._namespace, name=name)
        except NotFound:
            return None
        self._remember_uid(body)
        return body

    # Writing

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        if kind in _LOCAL_KINDS:
            return self._local.create(kind, body, dry_run=dry_run)
        self._require_workflows(kind)
        sent = _without_owner(body)
        name = sent["metadata"]["name"]
        if wrong := unknown_fields(sent):
            raise Refused(f"workflows {name!r} was rejected before sending: {'; '.join(wrong)}")
        try:
            made = self._api.request(
                "create_workflow", namespace=self._namespace, body={"workflow": sent, **({"serverDryRun": True} if dry_run else {})}
            )
        except NotFound as problem:
            # the namespace, or an object that the Workflow refers to, does not exist
            raise Refused(str(problem)) from problem
        if not dry_run:
            self._remember_uid(made)
        return made

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        if kind in _LOCAL_KINDS:
            return self._local.patch(kind, name, changes, dry_run=dry_run)
        raise Refused(f"{kind} cannot be modified through an Argo Server")

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        if kind in _LOCAL_KINDS:
            self._local.delete(kind, name)
        elif kind == "pods":
            if name in self._workflow_of:
                self.stop_workflow(self._workflow_of[name])
        else:
            self._require_workflows(kind)
            self._delete_workflow(name, force)

    def _delete_workflow(self, name: str, force: bool) -> None:
        """Delete a Workflow if its uid is the last one seen. The uid is checked first, because the server ignores preconditions."""
        seen = self._uids.get(name)
        with suppress(NotFound):
            found = self._api.request("get_workflow", namespace=self._namespace, name=name, fields="metadata")
            if seen in (None, found["metadata"]["uid"]):
                self._api.request("delete_workflow", namespace=self._namespace, name=name, force=force)

    def stop_workflow(self, name: str) -> None:
        try:
            self._api.request("stop_workflow", namespace=self._namespace, name=name, body={"name": name, "namespace": self._namespace})
        except NotFound:
            return
        except ScalingStudyError:
            # the server rejects the request for a finished or stopped Workflow
            found = self.get("workflows", name)
            if found is not None and (found.get("status") or {}).get("phase") not in _FINISHED and not found["spec"].get("shutdown"):
                raise

    # Objects kept in this process

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        return self._local.patch_status(name, status, resource_version)

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._local.event(study, reason, message, is_warning=is_warning)

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        return self._local.acquire_lease(name, holder, seconds)

    def release_lease(self, name: str, holder: str) -> None:
        self._local.release_lease(name, holder)

    def read_config(self, name: str) -> dict[str, str] | None:
        return self._local.read_config(name)

    # Logs

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:
        """Yield log lines. The token needs list and watch on pods and get on pods/log, because the server uses it for the request."""
        if pod not in self._workflow_of:
            self.list("pods")
        workflow = self._workflow_of.get(pod)
        if workflow is None:
            raise NotFound(f"pods {pod!r} not found")
        parameters = {"name": workflow, "pod_name": pod, "log_options_container": container, "log_options_follow": follow}
        for line in self._api.stream("workflow_logs", None if follow else 30, namespace=self._namespace, **parameters):
            yield str(line.get("content", ""))

    def _require_workflows(self, kind: Kind) -> None:
        if kind != "workflows":
            raise Refused(f"{kind} cannot be accessed through an Argo Server")


def connect(url: str, namespace: str, token: Callable[[], str], *, ca_file: str = "", verify: bool = True) -> ArgoServerCluster:
    """Connect to a namespace and check access to it. Raises ClusterError, TokenRefused."""
    if not url.startswith(("http://", "https://")):
        raise Refused(f"--argo-server {url}: the URL needs http:// or https://, for example https://{url}")
    api = ArgoApi(url, token, ca_file=ca_file, verify=verify)
    api.version()
    cluster = ArgoServerCluster(api, namespace)
    try:
        api.request("list_workflows", namespace=namespace, list_options_limit="1", fields="metadata")
    except Refused as problem:
        raise Refused(
            f"the token may not list Workflows in namespace {namespace!r}: {problem}\n"
            "    Check the name of the namespace. The token needs the verbs create, get, list, watch, patch, update and delete on\n"
            "    workflows.argoproj.io in it, which the platform team grants with a Role"
        ) from problem
    return cluster


def _selector(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {"list_options_label_selector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}


def _prefixed(prefix: str, fields: tuple[str, ...]) -> Iterator[str]:
    return (f"{prefix}.{field}" for field in fields)


def _has_labels(body: Document, labels: Mapping[str, str] | None) -> bool:
    found = body["metadata"].get("labels") or {}
    return all(found.get(key) == value for key, value in (labels or {}).items())


def _without_owner(body: Document) -> Document:
    """Drop the owner reference: the study is not an object of the cluster, so the Workflow would be garbage-collected as an orphan."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "ownerReferences"}
    return {**body, "metadata": metadata}
