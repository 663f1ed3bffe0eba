"""Adapter for the Kubernetes API, and the only module that imports the `kubernetes` client.

The controller and the command line connect here. The client provides credentials, TLS and connections. Requests are built from paths,
because one function for all kinds is shorter than the client's method per kind. API errors are converted to ClusterError in one place.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from orchestrator.cluster.port import Change, Document, Kind, Listing, StudyReference, event_name
from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND
from orchestrator.errors import AlreadyExists, ClusterError, ClusterUnavailable, Conflict, Expired, NotFound, Refused

# Kubernetes mounts this file into every pod with a service account token
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_GROUPS: Final[dict[str, str]] = {
    "scalingstudies": f"/apis/{API_VERSION}",
    "gpuaccounts": f"/apis/{API_VERSION}",
    "workflows": "/apis/argoproj.io/v1alpha1",
    "pods": "/api/v1",
    "nodes": "/api/v1",
    "events": "/api/v1",
    "configmaps": "/api/v1",
    "jobsets": "/apis/jobset.x-k8s.io/v1alpha2",
    "leases": "/apis/coordination.k8s.io/v1",
}
PAGE: Final = 100
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 30
# Added to the requested duration of a watch; after that without data, the connection is considered lost
_MARGIN_SECONDS: Final = 15

_MERGE: Final = "application/merge-patch+json"
_JSON: Final = "application/json"


class KubernetesCluster:
    """One namespace, accessed through the API server. `page`: objects per page of a listing."""

    def __init__(self, api: client.ApiClient, namespace: str, page: int = PAGE) -> None:
        self._api = api
        self._page = page
        self._namespace = namespace
        self._observed_leases: dict[str, tuple[str, float]] = {}

    @property
    def namespace(self) -> str:
        return self._namespace

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        while True:
            with suppress(Expired):  # continue tokens expire after some minutes
                found = list(self.pages(kind, labels))
                return Listing([body for page in found for body in page.items], found[-1].resource_version)

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        query: dict[str, object] = {"limit": self._page, **_selector(labels)}
        while True:
            page = self._request("GET", self._path(kind), query)
            yield Listing(page["items"], page["metadata"]["resourceVersion"])
            if not (token := page["metadata"].get("continue")):
                return
            query = {**query, "continue": token}

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": timeout_seconds,
            **_selector(labels),
        }
        for line in self._lines(self._path(kind), query, timeout_seconds + _MARGIN_SECONDS):
            change = json.loads(line)
            if change["type"] == "ERROR":
                raise _error_from_status(change["object"].get("code", 500), change["object"], f"watch {kind}")
            yield change["type"], change["object"]

    def get(self, kind: Kind, name: str) -> Document | None:
        try:
            return self._request("GET", self._path(kind, name))
        except NotFound:
            return None

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        return self._request("POST", self._path(kind), _strict_query(dry_run), body)

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        return self._request("PATCH", self._path(kind, name), _strict_query(dry_run), changes)

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        query: dict[str, object] = {"propagationPolicy": "Background", **({"gracePeriodSeconds": 0} if force else {})}
        with suppress(NotFound):
            self._request("DELETE", self._path(kind, name), query)

    def stop_workflow(self, name: str) -> None:
        with suppress(NotFound):
            self.patch("workflows", name, {"spec": {"shutdown": "Stop"}})

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        """Replace the status with PUT, because a merge patch would keep keys that the new status omits."""
        body = {
            "apiVersion": API_VERSION,
            "kind": OBJECT_KIND,
            "metadata": {"name": name, "namespace": self._namespace, "resourceVersion": resource_version},
            "status": status,
        }
        return self._request("PUT", self._path("scalingstudies", name) + "/status", {"fieldValidation": "Strict"}, body)

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        name, now = event_name(study, reason, message), _stamp()
        try:
            self.create("events", self._event_body(name, study, reason, message, is_warning, now))
        except AlreadyExists:
            known = self.get("events", name) or {}
            with suppress(NotFound):
                self.patch("events", name, {"count": known.get("count", 0) + 1, "lastTimestamp": now})

    def _event_body(self, name: str, study: StudyReference, reason: str, message: str, is_warning: bool, now: str) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": self._namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": study.kind,
                "name": study.name,
                "namespace": self._namespace,
                "uid": study.uid,
            },
            "reason": reason,
            # the API server's limit
            "message": message[:1024],
            "type": "Warning" if is_warning else "Normal",
            "source": {"component": "scaling-study"},
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        """Treat another holder's lease as expired if it is unchanged for `seconds` of the local clock, which is immune to clock skew."""
        path = self._path("leases", name)
        try:
            found = self._request("GET", path)
        except NotFound:
            return self._create_lease(name, holder, seconds)
        spec = found.get("spec") or {}
        if spec.get("holderIdentity") not in (None, "", holder) and not self._is_stale(name, found, seconds):
            return False
        changed = spec.get("holderIdentity") != holder
        found["spec"] = {
            **spec,
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "renewTime": _micro_stamp(),
            **({"acquireTime": _micro_stamp(), "leaseTransitions": spec.get("leaseTransitions", 0) + 1} if changed else {}),
        }
        try:
            self._request("PUT", path, body=found)
        except (Conflict, NotFound):
            return False
        return True

    def _create_lease(self, name: str, holder: str, seconds: int) -> bool:
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": _micro_stamp(),
            "renewTime": _micro_stamp(),
            "leaseTransitions": 0,
        }
        metadata = {"name": name, "namespace": self._namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        try:
            self._request("POST", self._path("leases"), body=body)
        except AlreadyExists:
            return False
        return True

    def _is_stale(self, name: str, found: Document, seconds: int) -> bool:
        version, now = found["metadata"]["resourceVersion"], time.monotonic()
        seen, since = self._observed_leases.get(name, ("", now))
        if seen != version:
            self._observed_leases[name] = version, now
            return False
        return now - since > seconds

    def release_lease(self, name: str, holder: str) -> None:
        path = self._path("leases", name)
        with suppress(NotFound, Conflict):
            found = self._request("GET", path)
            if (found.get("spec") or {}).get("holderIdentity") == holder:
                found["spec"] = {**found["spec"], "holderIdentity": ""}
                self._request("PUT", path, body=found)

    def read_config(self, name: str) -> dict[str, str] | None:
        try:
            return dict(self._request("GET", self._path("configmaps", name)).get("data") or {})
        except NotFound:
            return None

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:
        query = {"container": container, **({"follow": "true"} if follow else {})}
        # no read timeout: a pod may write nothing for hours
        yield from self._lines(self._path("pods", pod) + "/log", query, None if follow else _READ_SECONDS)

    # Requests

    def _path(self, kind: str, name: str = "") -> str:
        inside = "" if kind == "nodes" else f"/namespaces/{self._namespace}"
        return f"{_GROUPS[kind]}{inside}/{kind}" + (f"/{quote(name, safe='')}" if name else "")

    def _request(self, method: str, path: str, query: Mapping[str, object] | None = None, body: Document | None = None) -> Document:
        try:
            found: Document = json.loads(self._send(method, path, query, body, _READ_SECONDS).data)
        except (HTTPError, OSError, ValueError) as problem:
            raise _unreachable(method, path, problem) from problem
        return found

    def _lines(self, path: str, query: Mapping[str, object], read_seconds: int | None) -> Iterator[str]:
        """Yield the lines of a streamed response; a connection lost midway ends the stream without an error."""
        response = self._send("GET", path, query, None, read_seconds)
        try:
            yield from _split(response)
        except (HTTPError, OSError):
            return
        finally:
            response.close()

    def _send(
        self, method: str, path: str, query: Mapping[str, object] | None, body: Document | None, read_seconds: int | None
    ) -> BaseHTTPResponse:
        headers = {"Accept": "*/*", "Content-Type": _MERGE if method == "PATCH" else _JSON}
        # adds the bearer token; the client rereads it when it is rotated
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        timeouts = (_CONNECT_SECONDS, read_seconds)
        try:
            response: BaseHTTPResponse = self._api.request(
                method, url, headers=headers, body=body, _preload_content=False, _request_timeout=timeouts
            )
        except ApiException as problem:
            raise _error_from_exception(problem, f"{method} {path}") from problem
        except (HTTPError, OSError) as problem:
            raise _unreachable(method, path, problem) from problem
        return response


def connect(namespace: str = "", context: str = "", page: int = PAGE) -> KubernetesCluster:
    """Connect to the cluster of this pod, or else to the one in KUBECONFIG or ~/.kube/config. Raises ClusterError.

    `namespace`: by default the namespace of this pod or of the context.
    """
    settings = client.Configuration()
    try:
        if not context and _OWN_NAMESPACE.exists():
            config.load_incluster_config(client_configuration=settings)
            found = _OWN_NAMESPACE.read_text().strip()
        else:
            config.load_kube_config(context=context or None, client_configuration=settings)
            contexts, active = config.list_kube_config_contexts()
            chosen = next((entry for entry in contexts if entry["name"] == context), active)
            found = (chosen.get("context") or {}).get("namespace") or "default"
    except (config.ConfigException, OSError) as problem:
        raise ClusterError(f"no cluster is configured: {problem}; set KUBECONFIG to a kubeconfig file") from problem
    # the callers decide what to retry, not the HTTP library
    settings.retries = False
    return KubernetesCluster(client.ApiClient(settings), namespace or found, page)


def _strict_query(dry_run: bool) -> dict[str, object]:
    return {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}


def _selector(labels: Mapping[str, str] | None) -> dict[str, object]:
    return {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}


def _split(response: BaseHTTPResponse) -> Iterator[str]:
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


def _unreachable(method: str, path: str, problem: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(f"{method} {path}: the Kubernetes API is unreachable: {problem}")


def _error_from_exception(problem: ApiException, what: str) -> ClusterError:
    try:
        status = json.loads(problem.body or "{}")
    except ValueError:
        status = {"message": problem.body}
    return _error_from_status(problem.status or 0, status if isinstance(status, dict) else {}, what)


def _error_from_status(code: int, status: Mapping[str, Any], what: str) -> ClusterError:
    """Convert a Kubernetes `Status` object to a ClusterError."""
    message = str(status.get("message") or status.get("reason") or f"HTTP {code}")
    if code == 404:
        return NotFound(f"{what}: {message}")
    if code == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyExists(f"{what}: {message}")
    if code == 409:
        return Conflict(f"{what}: {message}")
    if code == 410:
        return Expired(f"{what}: {message}")
    if code == 0 or code == 429 or code >= 500:
        return ClusterUnavailable(f"{what}: {message}")
    return Refused(message)


def _stamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _micro_stamp() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
