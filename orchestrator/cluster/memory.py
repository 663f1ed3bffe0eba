"""In-memory cluster for tests: behaves like the Kubernetes API and fails on demand.

`InMemoryCluster` is public, so that tests of the control loop and the command line need no patching. The Argo Server adapter uses one for
objects that its token cannot access. Every change increments the resource version; a write with an old version conflicts; watches end,
drop and expire; dependents are deleted with their owner; a deleted pod stays until its process has ended. Tests simulate Argo and the
kubelet with `put`, `set_status` and `remove`.
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
from orchestrator.errors import AlreadyExists, ClusterUnavailable, Conflict, Expired, NotFound, Refused

# an alias, because `list` is a method inside the class
Documents: TypeAlias = list[Document]
Keys: TypeAlias = list[tuple[Kind, str]]
T = TypeVar("T")

# the API server's rules for object names (RFC 1123) and label values
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_LABEL: Final = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")

_RUNNING: Final = "Running"

_PAGE: Final = 100
_HISTORY_LENGTH: Final = 5000
"""Number of changes from which a watch can continue. Older ones are dropped, as by etcd's compaction."""


@dataclass
class ClusterFault:
    """An injected fault: calls of method `name` (`list`, `create`, ...; * for all) on `target` (`kind/name` or `kind`) raise an error.

    `when`: raise before the change is made, or after it (a lost reply). The first `skip` matching calls succeed, then `times` calls fail.
    `error` creates the exception, by default a ClusterUnavailable.
    """

    name: str
    target: str = "*"
    when: Literal["before", "after"] = "before"
    times: int = 1
    skip: int = 0
    error: Callable[[], BaseException] = field(default=lambda: ClusterUnavailable("the in-memory cluster is unreachable (injected fault)"))

    def matches(self, name: str, target: str) -> bool:
        """Return whether this call fails, and count it."""
        if self.times == 0 or not fnmatchcase(name, self.name) or not fnmatchcase(target, self.target):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    kind: Kind
    type: Change
    stored: "_Stored"


@dataclass(frozen=True, slots=True)
class _Stored:
    """An object as pickled bytes, which take a fifth of the memory of dictionaries and cannot be modified by accident."""

    blob: bytes
    labels: Mapping[str, str]
    owners: frozenset[str]

    def body(self) -> Document:
        found: Document = pickle.loads(self.blob)
        return found


class InMemoryCluster:
    """One namespace, held in dictionaries.

    `faults` can be extended at any time. `calls` lists (method, target) in call order. `admission`: functions that return a message to
    reject a created object (schema, quota, policy), or None. `configs`: ConfigMap data by name. `pod_logs`: log lines by pod name.
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
        self._history: list[_Change] = []
        self._compacted = 0
        self._versions = itertools.count(1)
        self._leases: dict[str, tuple[str, datetime]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._drops = 0

    @property
    def namespace(self) -> str:
        return self._namespace

    # The port

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Listing:
        return self._call("list", kind, lambda: Listing(self._select(kind, labels), str(self._version())))

    def pages(self, kind: Kind, labels: Mapping[str, str] | None = None) -> Iterator[Listing]:
        keys, version = self._call("list", kind, lambda: (self._keys(kind, labels), str(self._version())))
        for start in range(0, max(1, len(keys)), _PAGE):
            with self._changed:
                found = [stored.body() for key in keys[start : start + _PAGE] if (stored := self._objects.get(key)) is not None]
            yield Listing(found, version)

    def watch(
        self, kind: Kind, resource_version: str, labels: Mapping[str, str] | None = None, timeout_seconds: int = 240
    ) -> Iterator[tuple[Change, Document]]:
        since = self._call("watch", kind, lambda: self._checked_version(int(resource_version or 0)))
        return self._stream(kind, since, labels, timeout_seconds)

    def get(self, kind: Kind, name: str) -> Document | None:
        return self._call("get", f"{kind}/{name}", lambda: self._find(kind, name))

    def create(self, kind: Kind, body: Document, *, dry_run: bool = False) -> Document:
        return self._call("create", f"{kind}/{body['metadata']['name']}", lambda: self._create(kind, _copy(body), dry_run))

    def patch(self, kind: Kind, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        return self._call("patch", f"{kind}/{name}", lambda: self._patch(kind, name, _copy(changes), dry_run))

    def delete(self, kind: Kind, name: str, *, force: bool = False) -> None:
        self._call("delete", f"{kind}/{name}", lambda: self._delete(kind, name, force))

    def stop_workflow(self, name: str) -> None:
        self._call("stop_workflow", f"workflows/{name}", lambda: self._stop(name))

    def patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        return self._call("patch_status", f"scalingstudies/{name}", lambda: self._patch_status(name, _copy(status), resource_version))

    def event(self, study: StudyReference, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._call("event", f"scalingstudies/{study.name}", lambda: self._event(study, reason, message, is_warning))

    def acquire_lease(self, name: str, holder: str, seconds: int) -> bool:
        return self._call("acquire_lease", name, lambda: self._acquire(name, holder, seconds))

    def release_lease(self, name: str, holder: str) -> None:
        self._call("release_lease", name, lambda: self._release(name, holder))

    def read_config(self, name: str) -> dict[str, str] | None:
        return self._call("read_config", name, lambda: _copy(self.configs.get(name)))

    def logs(self, pod: str, *, container: str = "main", follow: bool = False) -> Iterator[str]:  # noqa: ARG002
        return self._call("logs", f"pods/{pod}", lambda: self._logs(pod))

    # Changes by other clients of the cluster

    def put(self, kind: Kind, body: Document) -> Document:
        """Create or replace an object as another client, without admission checks."""
        with self._changed:
            return self._save(kind, _copy(body), "MODIFIED" if (kind, body["metadata"]["name"]) in self._objects else "ADDED")

    def set_status(self, kind: Kind, name: str, status: Document) -> None:
        """Merge `status` into an object's status, as Argo and the kubelet do. A terminating pod that is no longer running is removed."""
        with self._changed:
            body = self._require(kind, name)
            body["status"] = _merged(body.get("status") or {}, status)
            self._save(kind, body, "MODIFIED")
            if kind == "pods" and "deletionTimestamp" in body["metadata"] and body["status"].get("phase") != _RUNNING:
                self._drop(kind, name)

    def remove(self, kind: Kind, name: str) -> None:
        """Delete an object and its dependents at once, as another client."""
        with self._changed:
            self._delete(kind, name, force=True)

    def compact(self) -> None:
        """Drop the change history: a watch from any earlier version raises Expired."""
        with self._changed:
            self._history.clear()
            self._compacted = next(self._versions)

    def drop_watches(self) -> None:
        """End every open watch without an error."""
        with self._changed:
            self._drops += 1
            self._changed.notify_all()

    # Implementation

    def _call(self, name: str, target: str, operation: Callable[[], T]) -> T:
        with self._changed:
            matching = [fault for fault in self.faults if fault.matches(name, target)]
            for fault in matching:
                if fault.when == "before":
                    raise fault.error()
            self.calls.append((name, target))
            result = operation()
            for fault in matching:
                raise fault.error()
            return result

    def _version(self) -> int:
        return max(self._compacted, self._history[-1].version if self._history else 0)

    def _select(self, kind: Kind, labels: Mapping[str, str] | None) -> Documents:
        return [stored.body() for (found, _), stored in self._objects.items() if found == kind and _has_labels(stored, labels)]

    def _keys(self, kind: Kind, labels: Mapping[str, str] | None) -> Keys:
        return [key for key, stored in self._objects.items() if key[0] == kind and _has_labels(stored, labels)]

    def _find(self, kind: Kind, name: str) -> Document | None:
        stored = self._objects.get((kind, name))
        return None if stored is None else stored.body()

    def _checked_version(self, version: int) -> int:
        if version < self._compacted:
            raise Expired(f"too old resource version: {version} ({self._compacted})")
        return version

    def _stream(self, kind: Kind, since: int, labels: Mapping[str, str] | None, timeout_seconds: int) -> Iterator[tuple[Change, Document]]:
        ends, drops = datetime.now(UTC) + timedelta(seconds=timeout_seconds), self._drops
        while True:
            with self._changed:
                changes = [change for change in self._history if change.version > since]
                left = (ends - datetime.now(UTC)).total_seconds()
                if not changes and left > 0 and self._drops == drops:
                    self._changed.wait(left)
                    continue
                if not changes or self._drops != drops:
                    return
            since = changes[-1].version
            for change in changes:
                if change.kind == kind and _has_labels(change.stored, labels):
                    yield change.type, change.stored.body()

    def _create(self, kind: Kind, body: Document, dry_run: bool = False) -> Document:
        metadata = body["metadata"]
        for problem in (self._invalid(metadata), *(check(kind, body) for check in self.admission)):
            if problem:
                raise Refused(f"{kind} {metadata['name']!r} was rejected: {problem}")
        if (kind, metadata["name"]) in self._objects:
            raise AlreadyExists(f"{kind} {metadata['name']!r} already exists")
        if kind == "scalingstudies":
            body.pop("status", None)
        return body if dry_run else self._save(kind, body, "ADDED")

    def _invalid(self, metadata: Document) -> str | None:
        if not _NAME.fullmatch(metadata["name"]):
            return f"metadata.name: Invalid value: {metadata['name']!r}"
        if metadata.get("namespace", self._namespace) != self._namespace:
            return "the namespace of the provided object does not match the namespace sent on the request"
        wrong = [value for value in (metadata.get("labels") or {}).values() if not _LABEL.fullmatch(value)]
        return f"metadata.labels: Invalid value: {wrong[0]!r}: must be no more than 63 bytes" if wrong else None

    def _save(self, kind: Kind, body: Document, change: Change) -> Document:
        metadata = body["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("generation", 1)
        metadata.setdefault("creationTimestamp", _stamp(self._clock()))
        if kind != "nodes":
            metadata.setdefault("namespace", self._namespace)
        self._objects[kind, metadata["name"]] = self._record(kind, body, change)
        return body

    def _record(self, kind: Kind, body: Document, change: Change) -> _Stored:
        version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(version)
        stored = _stored(body)
        self._history.append(_Change(version, kind, change, stored))
        if len(self._history) > _HISTORY_LENGTH:
            self._compacted = self._history[_HISTORY_LENGTH // 2].version
            del self._history[: _HISTORY_LENGTH // 2 + 1]
        self._changed.notify_all()
        return stored

    def _drop(self, kind: Kind, name: str) -> None:
        self._record(kind, self._objects.pop((kind, name)).body(), "DELETED")

    def _require(self, kind: Kind, name: str) -> Document:
        body = self._find(kind, name)
        if body is None:
            raise NotFound(f"{kind} {name!r} not found")
        return body

    def _patch(self, kind: Kind, name: str, changes: Document, dry_run: bool = False) -> Document:
        before = self._require(kind, name)
        if kind == "scalingstudies":
            changes.pop("status", None)
        version = (changes.get("metadata") or {}).get("resourceVersion")
        if version is not None and version != before["metadata"]["resourceVersion"]:
            raise Conflict(f"{kind} {name!r}: the object has been modified; please apply your changes to the latest version")
        after = _merged(before, changes)
        if after == before:
            return before
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = before["metadata"]["generation"] + 1
        return after if dry_run else self._save(kind, after, "MODIFIED")

    def _patch_status(self, name: str, status: Document, resource_version: str) -> Document:
        body = self._require("scalingstudies", name)
        if body["metadata"]["resourceVersion"] != resource_version:
            raise Conflict(f"scalingstudies {name!r}: the object has been modified; please apply your changes to the latest version")
        if body.get("status") == status:
            return body
        return self._save("scalingstudies", {**body, "status": status}, "MODIFIED")

    def _delete(self, kind: Kind, name: str, force: bool) -> None:
        body = self._find(kind, name)
        if body is None:
            return
        if kind == "pods" and not force and (body.get("status") or {}).get("phase") == _RUNNING:
            if "deletionTimestamp" not in body["metadata"]:
                grace = timedelta(seconds=(body.get("spec") or {}).get("terminationGracePeriodSeconds", 30))
                body["metadata"]["deletionTimestamp"] = _stamp(self._clock() + grace)
                self._save(kind, body, "MODIFIED")
            return
        self._drop(kind, name)
        for owned_kind, owned in [key for key, other in self._objects.items() if body["metadata"]["uid"] in other.owners]:
            self._delete(owned_kind, owned, force=False)

    def _stop(self, name: str) -> None:
        body = self._find("workflows", name)
        if body is not None and not body["spec"].get("shutdown"):
            self._patch("workflows", name, {"spec": {"shutdown": "Stop"}})

    def _event(self, study: StudyReference, reason: str, message: str, is_warning: bool) -> None:
        name = event_name(study, reason, message)
        now = _stamp(self._clock())
        known = self._find("events", name)
        if known is not None:
            self._patch("events", name, {"count": known["count"] + 1, "lastTimestamp": now})
            return
        body: Document = {
            "metadata": {"name": name},
            "involvedObject": {"kind": study.kind, "name": study.name, "uid": study.uid},
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
        self._require("pods", pod)
        return iter([*self.pod_logs.get(pod, ())])


def _copy(body: T) -> T:
    """Deep-copy a JSON-like value, several times faster than copy.deepcopy."""
    found: T = pickle.loads(pickle.dumps(body, pickle.HIGHEST_PROTOCOL))
    return found


def _stored(body: Document) -> _Stored:
    metadata = body["metadata"]
    owners = frozenset(reference["uid"] for reference in metadata.get("ownerReferences") or ())
    return _Stored(pickle.dumps(body, pickle.HIGHEST_PROTOCOL), dict(metadata.get("labels") or {}), owners)


def _has_labels(stored: _Stored, labels: Mapping[str, str] | None) -> bool:
    return all(stored.labels.get(key) == value for key, value in (labels or {}).items())


def _merged(before: Document, changes: Document) -> Document:
    """Apply a JSON merge patch (RFC 7386)."""
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


def _stamp(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
