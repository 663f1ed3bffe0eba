"""The cluster in memory, for tests: it behaves like the API, and fails on demand.

`InMemoryCluster` is public, so that tests of the loop and of the command line need no patching; `argo_server` keeps in one what its token
does not reach. Versions grow with every change, a write
from an old one conflicts, a watch ends, drops and expires, owned objects go with their owner, a running pod that is deleted stays until its
process ends. What Argo and the kubelet do, a test plays by `put`, `set_status` and `remove`.
"""

import itertools
import pickle
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias, TypeVar

from orchestrator.cluster.port import Change, Document, Kind, Listing, StudyReference, event_name
from orchestrator.errors import AlreadyExists, ClusterUnavailable, Conflict, Expired, NotThere, Refused

# inside the class `list` is a method
Documents: TypeAlias = list[Document]
Keys: TypeAlias = list[tuple[Kind, str]]
T = TypeVar("T")

# RFC 1123, as the API server checks names; label values as it checks them
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_LABEL: Final = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")

_RUNNING: Final = "Running"

_PAGE: Final = 100
_REMEMBERED: Final = 5000
"""Changes that a watch can go back to; etcd's compaction forgets older ones too."""


@dataclass
class ClusterFault:
    """What goes wrong with calls of method `name` (`list`, `create`, ...; * for all) about `target`, that is `kind/name` or `kind`.

    `before`: nothing has happened. `after`: it has happened, and the error says it has not. `skip` calls pass first; `times`, then it is
    over. `error` makes what is raised, by default ClusterUnavailable.
    """

    name: str
    target: str = "*"
    when: Literal["before", "after"] = "before"
    times: int = 1
    skip: int = 0
    error: Callable[[], BaseException] = field(default=lambda: ClusterUnavailable("the cluster in memory is away: a fault of the test"))

    def meets(self, name: str, target: str) -> bool:
        """Whether this call is hit; counts down."""
        if self.times == 0 or not fnmatchcase(name, self.name) or not fnmatchcase(target, self.target):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class _Past:
    version: int
    kind: Kind
    change: Change
    stored: "_Stored"


@dataclass(frozen=True, slots=True)
class _Stored:
    """An object as bytes: a fifth of what it takes as dictionaries, and nobody changes it by accident."""

    blob: bytes
    labels: Mapping[str, str]
    owners: frozenset[str]

    def body(self) -> Document:
        found: Document = pickle.loads(self.blob)
        return found


class InMemoryCluster:
    """A namespace in dictionaries.

    `faults` may be added to at any time; `calls` holds (method, target) in the order they came. `admission`: each may refuse an object
    that is created, by a message: schema, quota, policy. `configs`: ConfigMaps by name. `pod_logs`: lines by pod.
    """

    def __init__(self, namespace: str = "studies", clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.faults: list[ClusterFault] = []
        self.calls: list[tuple[str, str]] = []
        self.admission: list[Callable[[Kind, Document], str | None]] = []
        self.configs: dict[str, dict[str, str]] = {}
        self.pod_logs: dict[str, list[str]] = {}
        self._namespace = namespace
        self._clock = clock
        self._objects: dict[tuple[Kind, str], _Stored] = {}
        self._past: list[_Past] = []
        self._forgotten = 0
        self._versions = itertools.count(1)
        self._leases: dict[str, tuple[str, datetime]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._drops = 0

    @property
    def namespace(self) -> str:
        return self._namespace

    # The port

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        return self._do("list", kind, lambda: Listing(self._found(kind, labels), str(self._version())))

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        keys, version = self._do("list", kind, lambda: (self._keys(kind, labels), str(self._version())))
        for start in range(0, max(1, len(keys)), _PAGE):
            with self._changed:
                found = [stored.body() for key in keys[start : start + _PAGE] if (stored := self._objects.get(key)) is not None]
            yield Listing(found, version)

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        since = self._do("watch", kind, lambda: self._remembered(int(resource_version or 0)))
        return self._stream(kind, since, labels, timeout_seconds)

    def get(self, kind: Kind, name: str) -> Document | None:
        return self._do("get", f"{kind}/{name}", lambda: self._look_up(kind, name))

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        return self._do("create", f"{kind}/{body['metadata']['name']}", lambda: self._create(kind, _copy(body), dry_run))

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        return self._do("patch", f"{kind}/{name}", lambda: self._patch(kind, name, _copy(changes), dry_run))

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        self._do("delete", f"{kind}/{name}", lambda: self._delete(kind, name, force))

    def stop_workflow(self, name: str) -> None:
        self._do("stop_workflow", f"workflows/{name}", lambda: self._stop(name))

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        return self._do("patch_status", f"scalingstudies/{name}", lambda: self._patch_status(name, _copy(status), resource_version))

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._do("event", f"scalingstudies/{study.name}", lambda: self._event(study, reason, message, is_warning))

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        return self._do("acquire_lease", name, lambda: self._acquire(name, holder, seconds))

    def release_lease(self, name: str, holder: str) -> None:
        self._do("release_lease", name, lambda: self._release(name, holder))

    def read_config(self, name: str) -> dict[str, str] | None:
        return self._do("read_config", name, lambda: _copy(self.configs.get(name)))

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:  # noqa: ARG002
        return self._do("logs", f"pods/{pod}", lambda: self._logs(pod))

    # What others do in a cluster

    def put(self, kind: Kind, body: Document) -> Document:
        """Put an object there as somebody else does, whatever admission says; the same name again replaces it."""
        with self._changed:
            return self._keep(kind, _copy(body), "MODIFIED" if (kind, body["metadata"]["name"]) in self._objects else "ADDED")

    def set_status(self, kind: Kind, name: str, status: Document) -> None:
        """Merge `status` into an object's, as Argo and the kubelet do. A terminating pod whose phase is over is gone."""
        with self._changed:
            body = self._there(kind, name)
            body["status"] = _merged(body.get("status") or {}, status)
            self._keep(kind, body, "MODIFIED")
            if kind == "pods" and "deletionTimestamp" in body["metadata"] and body["status"].get("phase") != _RUNNING:
                self._drop(kind, name)

    def remove(self, kind: Kind, name: str) -> None:
        """Take an object away as somebody else does, with what it owns."""
        with self._changed:
            self._delete(kind, name, force=True)

    def forget(self) -> None:
        """Lose the past: a watch from any version before now has expired."""
        with self._changed:
            self._past.clear()
            self._forgotten = next(self._versions)

    def drop_watches(self) -> None:
        """End every watch that is open now, without a word."""
        with self._changed:
            self._drops += 1
            self._changed.notify_all()

    # Inside

    def _do(self, name: str, target: str, act: Callable[[], T]) -> T:
        with self._changed:
            hits = [fault for fault in self.faults if fault.meets(name, target)]
            for fault in hits:
                if fault.when == "before":
                    raise fault.error()
            self.calls.append((name, target))
            result = act()
            for fault in hits:
                raise fault.error()
            return result

    def _version(self) -> int:
        return max(self._forgotten, self._past[-1].version if self._past else 0)

    def _found(self, kind: Kind, labels: Mapping[str, str] | None) -> Documents:
        return [stored.body() for (found, _), stored in self._objects.items() if found == kind and _has(stored, labels)]

    def _keys(self, kind: Kind, labels: Mapping[str, str] | None) -> Keys:
        return [key for key, stored in self._objects.items() if key[0] == kind and _has(stored, labels)]

    def _look_up(self, kind: Kind, name: str) -> Document | None:
        stored = self._objects.get((kind, name))
        return None if stored is None else stored.body()

    def _remembered(self, version: int) -> int:
        if version < self._forgotten:
            raise Expired(f"too old resource version: {version} ({self._forgotten})")
        return version

    def _stream(self, kind: Kind, since: int, labels: Mapping[str, str] | None, timeout_seconds: int) -> Iterator[tuple[Change, Document]]:
        ends, drops = datetime.now(UTC) + timedelta(seconds=timeout_seconds), self._drops
        while True:
            with self._changed:
                news = [past for past in self._past if past.version > since]
                left = (ends - datetime.now(UTC)).total_seconds()
                if not news and left > 0 and self._drops == drops:
                    self._changed.wait(left)
                    continue
                if not news or self._drops != drops:
                    return
            since = news[-1].version
            for past in news:
                if past.kind == kind and _has(past.stored, labels):
                    yield past.change, past.stored.body()

    def _create(self, kind: Kind, body: Document, dry_run: bool = False) -> Document:
        metadata = body["metadata"]
        for problem in (self._invalid(metadata), *(check(kind, body) for check in self.admission)):
            if problem:
                raise Refused(f"{kind} {metadata['name']!r} is refused: {problem}")
        if (kind, metadata["name"]) in self._objects:
            raise AlreadyExists(f"{kind} {metadata['name']!r} already exists")
        if kind == "scalingstudies":
            body.pop("status", None)
        return body if dry_run else self._keep(kind, body, "ADDED")

    def _invalid(self, metadata: Document) -> str | None:
        if not _NAME.fullmatch(metadata["name"]):
            return f"metadata.name: Invalid value: {metadata['name']!r}"
        if metadata.get("namespace", self._namespace) != self._namespace:
            return "the namespace of the provided object does not match the namespace sent on the request"
        wrong = [value for value in (metadata.get("labels") or {}).values() if not _LABEL.fullmatch(value)]
        return f"metadata.labels: Invalid value: {wrong[0]!r}: must be no more than 63 bytes" if wrong else None

    def _keep(self, kind: Kind, body: Document, change: Change) -> Document:
        metadata = body["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("generation", 1)
        metadata.setdefault("creationTimestamp", _stamp(self._clock()))
        if kind != "nodes":
            metadata.setdefault("namespace", self._namespace)
        self._objects[kind, metadata["name"]] = self._tell(kind, body, change)
        return body

    def _tell(self, kind: Kind, body: Document, change: Change) -> _Stored:
        version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(version)
        stored = _stored(body)
        self._past.append(_Past(version, kind, change, stored))
        if len(self._past) > _REMEMBERED:
            self._forgotten = self._past[_REMEMBERED // 2].version
            del self._past[: _REMEMBERED // 2 + 1]
        self._changed.notify_all()
        return stored

    def _drop(self, kind: Kind, name: str) -> None:
        self._tell(kind, self._objects.pop((kind, name)).body(), "DELETED")

    def _there(self, kind: Kind, name: str) -> Document:
        body = self._look_up(kind, name)
        if body is None:
            raise NotThere(f"{kind} {name!r} not found")
        return body

    def _patch(self, kind: Kind, name: str, changes: Document, dry_run: bool = False) -> Document:
        before = self._there(kind, name)
        if kind == "scalingstudies":
            changes.pop("status", None)
        after = _merged(before, changes)
        if after == before:
            return before
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = before["metadata"]["generation"] + 1
        return after if dry_run else self._keep(kind, after, "MODIFIED")

    def _patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        body = self._there("scalingstudies", name)
        if body["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(f"scalingstudies {name!r}: the object has been modified; please apply your changes to the latest version")
        if body.get("status") == status:
            return body
        return self._keep("scalingstudies", {**body, "status": status}, "MODIFIED")

    def _delete(self, kind: Kind, name: str, force: bool) -> None:
        body = self._look_up(kind, name)
        if body is None:
            return
        if kind == "pods" and not force and (body.get("status") or {}).get("phase") == _RUNNING:
            if "deletionTimestamp" not in body["metadata"]:
                grace = timedelta(seconds=(body.get("spec") or {}).get("terminationGracePeriodSeconds", 30))
                body["metadata"]["deletionTimestamp"] = _stamp(self._clock() + grace)
                self._keep(kind, body, "MODIFIED")
            return
        self._drop(kind, name)
        for owned_kind, owned in [key for key, other in self._objects.items() if body["metadata"]["uid"] in other.owners]:
            self._delete(owned_kind, owned, force=False)

    def _stop(self, name: str) -> None:
        body = self._look_up("workflows", name)
        if body is not None and not body["spec"].get("shutdown"):
            self._patch("workflows", name, {"spec": {"shutdown": "Stop"}})

    def _event(self, study: StudyReference, reason: str, message: str, is_warning: bool) -> None:
        name = event_name(study, reason, message)
        now = _stamp(self._clock())
        known = self._look_up("events", name)
        if known is not None:
            self._patch("events", name, {"count": known["count"] + 1, "lastTimestamp": now})
            return
        body: Document = {
            "metadata": {"name": name},
            "involvedObject": {"kind": "ScalingStudy", "name": study.name, "uid": study.uid},
            "reason": reason,
            "message": message,
            "type": "Warning" if is_warning else "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        self._create("events", body)

    def _acquire(self, name: str, holder: str, seconds: int) -> bool:
        now = self._clock()
        known, until = self._leases.get(name, (holder, now))
        if known != holder and now < until:
            return False
        self._leases[name] = holder, now + timedelta(seconds=seconds)
        return True

    def _release(self, name: str, holder: str) -> None:
        if self._leases.get(name, ("", None))[0] == holder:
            del self._leases[name]

    def _logs(self, pod: str) -> Iterator[str]:
        self._there("pods", pod)
        return iter([*self.pod_logs.get(pod, ())])


def _copy(body: T) -> T:
    """Several times faster than deepcopy on what JSON can hold."""
    found: T = pickle.loads(pickle.dumps(body, pickle.HIGHEST_PROTOCOL))
    return found


def _stored(body: Document) -> _Stored:
    metadata = body["metadata"]
    owners = frozenset(reference["uid"] for reference in metadata.get("ownerReferences") or ())
    return _Stored(pickle.dumps(body, pickle.HIGHEST_PROTOCOL), dict(metadata.get("labels") or {}), owners)


def _has(stored: _Stored, labels: Mapping[str, str] | None) -> bool:
    return all(stored.labels.get(key) == value for key, value in (labels or {}).items())


def _merged(before: Document, changes: Document) -> Document:
    """A JSON merge patch, RFC 7386."""
    after = dict(before)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        elif isinstance(value, dict):
            known = after.get(key)
            after[key] = _merged(known if isinstance(known, dict) else {}, value)
        else:
            after[key] = value
    return after


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
