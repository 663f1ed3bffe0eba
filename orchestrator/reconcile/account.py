"""The account of a namespace's GPU-seconds: billed from pods and leases, and never lowered.

`orchestrator.controller.accounting` keeps it in a GpuAccount object, which only the controller may write. Pure: the clock, the pods and the
leases are arguments.

An attempt is one pod, or one JobSet, that ran on GPUs. It costs the longer of the time that its pods held GPUs, as the cluster reports it,
and the time in its lease. A pod is billed whether or not it has a lease, and a lease whether or not its pod was observed: summed over the
attempts of a study, billed = pods + leases - overlap, where the overlap of an attempt is the smaller of the two.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil, floor
from typing import Any, Final

from orchestrator.reconcile.observed import TERMINAL, ObservedPod, ObservedWorkflow, parse_time

Document = dict[str, Any]

MOST_ENTRIES: Final = 400
"""Entries of deleted studies beyond this number are folded into one total, the oldest first."""
MOST_ENDED_PODS: Final = 2000
"""Pods that have ended and whose leases are still unread. Beyond this number the oldest are closed as if they had no lease."""
MOST_RESETS: Final = 20

# Kubernetes truncates its timestamps to seconds
_RESOLUTION: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class LeasedTime:
    """The GPU-seconds in one lease.

    `host`: name of the pod that held it. `node`: Argo's name of the attempt. `is_ended`: whether the lease has an end.
    """

    host: str
    start: datetime
    gpu_seconds: float
    gpus: int = 0
    node: str = ""
    is_ended: bool = True

    def until(self, finished: Mapping[str, datetime]) -> "LeasedTime":
        """Return the lease with the end that Argo recorded, if the process was killed before it could record one."""
        end = None if self.is_ended else finished.get(self.node)
        if end is None:
            return self
        return replace(self, gpu_seconds=max(self.gpu_seconds, self.gpus * (end + _RESOLUTION - self.start).total_seconds()))


@dataclass(slots=True)
class Entry:
    """What one study object was billed in one store, in GPU-seconds.

    `study`, `uid`: of the ScalingStudy object. `store`: label of the store, `url`: its address, "" if unknown. `pods`: time of all observed
    pods. `leases`: time in all leases of the study's name in the store. `overlap`: time of closed pods that is also in `leases`.
    `unobserved`: time of leases whose pods were not observed. `updated`: time of the last change.
    """

    study: str
    uid: str
    store: str
    url: str = ""
    pods: int = 0
    leases: int = 0
    overlap: int = 0
    unobserved: int = 0
    updated: str = ""
    is_closed: bool = False
    """Whether leases were read for the last time, after the study was deleted, refused or moved to another store."""

    @property
    def billed(self) -> int:
        return self.pods + self.unobserved


@dataclass(slots=True)
class BilledPod:
    """A GPU pod that is running, or whose lease was not compared yet. `host`: name under which it takes leases. `billed`: GPU-seconds."""

    uid: str
    host: str
    node_id: str
    workflow: str
    study: str
    study_uid: str
    store: str
    gpus: int
    start: str
    billed: int = 0
    end: str = ""
    exists: bool = False
    """Whether the pod object existed when pods were last billed; not stored."""

    @property
    def is_gone(self) -> bool:
        return bool(self.end) and not self.exists


@dataclass(frozen=True, slots=True)
class Reset:
    """A reset by the platform team: GPU-seconds billed until then no longer count against the cap."""

    at: str
    reason: str
    gpu_seconds: int


@dataclass(slots=True)
class Account:
    """The account of a namespace. All amounts are GPU-seconds and only grow; a reset changes only what counts against the cap."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By UID of the study and label of the store."""
    pods: dict[str, BilledPod] = field(default_factory=dict)
    """By UID of the pod."""
    folded: int = 0
    folded_entries: int = 0
    resets: list[Reset] = field(default_factory=list)

    @property
    def billed(self) -> int:
        """GPU-seconds billed since the account exists."""
        return self.folded + sum(entry.billed for entry in self.entries.values())

    @property
    def used(self) -> int:
        """GPU-seconds that count against the namespace's cap: billed since the last reset."""
        return self.billed - (self.resets[-1].gpu_seconds if self.resets else 0)

    @property
    def parts(self) -> dict[str, float]:
        """GPU-seconds by part. A gap between pods and leases is time before a lease, or of pods that the controller did not observe."""
        entries = self.entries.values()
        pods, leases = sum(entry.pods for entry in entries), sum(entry.leases for entry in entries)
        return {"used": self.used, "billed": self.billed, "pods": pods, "leases": leases}

    @property
    def has_running_pods(self) -> bool:
        """Whether a pod holds GPUs now, as last observed."""
        return any(not pod.end for pod in self.pods.values())

    def billed_by_study(self) -> Counter[str]:
        """Return the GPU-seconds billed to each study object, by UID, over all of its stores."""
        found: Counter[str] = Counter()
        for entry in self.entries.values():
            found[entry.uid] += entry.billed
        return found

    def entry(self, study: str, uid: str, store: str, url: str = "") -> Entry:
        """Return the entry of a study object and a store, a new one if there is none."""
        found = self.entries.setdefault((uid, store), Entry(study, uid, store, url))
        found.url = found.url or url
        return found

    # Pods

    def bill_pods(
        self, pods: Iterable[ObservedPod], workflows: Mapping[str, ObservedWorkflow], studies: Mapping[str, str], now: datetime
    ) -> None:
        """Bill the time that pods held GPUs until `now`.

        `pods`: all pods of the namespace's studies. `studies`: study name -> UID of its object. A deleted pod is billed until the end
        that Argo recorded, or else until now.
        """
        for known in self.pods.values():
            known.exists = False
        for pod in pods:
            if pod.gpus and pod.gpu_start is not None and pod.uid:
                billed = self.pods.get(pod.uid) or self._open(pod, workflows, studies)
                billed.exists = True
                self._bill(billed, _end_of(pod), now)
        for known in self.pods.values():
            if not known.exists and not known.end:
                self._bill(known, _recorded_end(known, workflows) or now, now)

    def _open(self, pod: ObservedPod, workflows: Mapping[str, ObservedWorkflow], studies: Mapping[str, str]) -> BilledPod:
        assert pod.gpu_start is not None
        workflow = workflows.get(pod.workflow)
        study = pod.study or (workflow.study if workflow else "")
        uid = (workflow.study_uid if workflow else "") or studies.get(study, "")
        opened = BilledPod(
            uid=pod.uid, host=pod.host, node_id=pod.node_id, workflow=pod.workflow, study=study, study_uid=uid, store=pod.store,
            gpus=pod.gpus, start=_stamp(pod.gpu_start),
        )  # fmt: skip
        self.pods[pod.uid] = opened
        return opened

    def _bill(self, pod: BilledPod, end: datetime | None, now: datetime) -> None:
        """Bill a pod until its end, or until now if it runs. A pod is never billed less than before."""
        if pod.end:
            return
        until = now if end is None else end + _RESOLUTION
        total = pod.gpus * max(0, ceil((until - parse_time(pod.start)).total_seconds()))
        if total > pod.billed:
            entry = self.entry(pod.study, pod.study_uid, pod.store)
            entry.pods += total - pod.billed
            entry.is_closed = False
            entry.updated = _stamp(now)
            pod.billed = total
        if end is not None:
            pod.end = _stamp(end)

    # Leases

    def settle(self, entry: Entry, leased: Sequence[LeasedTime], now: datetime) -> None:
        """Compare the leases of the entry's study and store with its pods, and bill leases whose pods were not observed.

        `leased`: all leases of the study's name in the store, read after `bill_pods`. Pods that have ended are closed.
        """
        group = [other for other in self.entries.values() if (other.study, other.store) == (entry.study, entry.store)]
        pods = [pod for pod in self.pods.values() if (pod.study, pod.store) == (entry.study, entry.store)]
        of_host = _gpu_seconds_by_host(pods, leased)
        running_overlap = 0
        for host, mine in _by_host(pods).items():
            overlap = floor(min(of_host.get(host, 0.0), sum(pod.billed for pod in mine)))
            if all(pod.is_gone for pod in mine):
                self.entry(entry.study, mine[-1].study_uid, entry.store).overlap += overlap
                for pod in mine:
                    del self.pods[pod.uid]
            else:
                running_overlap += overlap
        total = ceil(sum(lease.gpu_seconds for lease in leased))
        unobserved = total - running_overlap - sum(other.overlap for other in group)
        elsewhere = sum(other.unobserved for other in group if other is not entry)
        if unobserved - elsewhere > entry.unobserved:
            entry.unobserved = unobserved - elsewhere
            entry.updated = _stamp(now)
        entry.leases = max(entry.leases, total)

    # Bounds and resets

    def fold(self, present: Iterable[str]) -> None:
        """Bound the size: merge the oldest entries of deleted studies into one sum, and drop the oldest pods that have ended.

        `present`: UIDs of the study objects that exist.
        """
        kept = {*present, *(pod.study_uid for pod in self.pods.values())}
        gone = sorted((entry.updated, key) for key, entry in self.entries.items() if entry.uid not in kept and entry.is_closed)
        for number, (_, key) in enumerate(gone):
            if number < len(gone) - MOST_ENTRIES or not self.entries[key].billed:
                self.folded += self.entries.pop(key).billed
                self.folded_entries += 1
        ended = sorted((pod.end, pod.uid) for pod in self.pods.values() if pod.is_gone)
        for _, uid in ended[: max(0, len(ended) - MOST_ENDED_PODS)]:
            del self.pods[uid]

    def reset(self, reason: str, now: datetime) -> bool:
        """Exclude all GPU-seconds billed so far from the cap; return False if this reset was already made."""
        if not reason or (self.resets and self.resets[-1].reason == reason):
            return False
        self.resets = [*self.resets, Reset(_stamp(now), reason, self.billed)][-MOST_RESETS:]
        return True

    # The object

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> "Account":
        """Return the account in the status of a GpuAccount object."""
        account = cls(folded=int(status.get("foldedGpuSeconds", 0)), folded_entries=int(status.get("foldedStudies", 0)))
        for given in status.get("studies") or ():
            entry = Entry(
                given["study"], given["uid"], given["store"], given.get("url", ""), given["podGpuSeconds"], given["leaseGpuSeconds"],
                given["overlapGpuSeconds"], given["unobservedGpuSeconds"], given.get("updated", ""),
                given.get("closed", False),
            )  # fmt: skip
            account.entries[entry.uid, entry.store] = entry
        for given in status.get("pods") or ():
            account.pods[given["uid"]] = BilledPod(
                given["uid"], given["host"], given.get("nodeId", ""), given["workflow"], given["study"], given["studyUid"], given["store"],
                given["gpus"], given["start"], given["gpuSeconds"], given.get("end", ""),
            )  # fmt: skip
        account.resets = [Reset(given["at"], given["reason"], given["gpuSeconds"]) for given in status.get("resets") or ()]
        return account

    def to_status(self) -> Document:
        """Return the status of the GpuAccount object."""
        return {
            "gpuSeconds": self.billed,
            "gpuHours": f"{self.used / 3600:.2f}",
            "running": sum(pod.gpus for pod in self.pods.values() if not pod.end),
            "foldedGpuSeconds": self.folded,
            "foldedStudies": self.folded_entries,
            "studies": [
                {
                    "study": entry.study, "uid": entry.uid, "store": entry.store, "url": entry.url, "gpuSeconds": entry.billed,
                    "podGpuSeconds": entry.pods, "leaseGpuSeconds": entry.leases, "overlapGpuSeconds": entry.overlap,
                    "unobservedGpuSeconds": entry.unobserved, "updated": entry.updated, "closed": entry.is_closed,
                }
                for entry in self.entries.values()
            ],
            "pods": [
                {
                    "uid": pod.uid, "host": pod.host, "nodeId": pod.node_id, "workflow": pod.workflow, "study": pod.study,
                    "studyUid": pod.study_uid, "store": pod.store, "gpus": pod.gpus, "start": pod.start, "gpuSeconds": pod.billed,
                    "end": pod.end,
                }
                for pod in self.pods.values()
            ],
            "resets": [{"at": reset.at, "reason": reset.reason, "gpuSeconds": reset.gpu_seconds} for reset in self.resets],
        }  # fmt: skip


def _by_host(pods: Iterable[BilledPod]) -> dict[str, list[BilledPod]]:
    found: dict[str, list[BilledPod]] = {}
    for pod in pods:
        found.setdefault(pod.host, []).append(pod)
    return found


def _gpu_seconds_by_host(pods: Sequence[BilledPod], leased: Sequence[LeasedTime]) -> dict[str, float]:
    """Sum the leases that the pods took, by host. A lease that started before the pod belongs to an earlier pod of the same name."""
    starts: dict[str, datetime] = {}
    for pod in pods:
        start = parse_time(pod.start)
        starts[pod.host] = min(start, starts.get(pod.host, start))
    found: dict[str, float] = {}
    for lease in leased:
        host = lease.host if lease.host in starts else _jobset_of(lease.host, starts)
        if host and lease.start >= starts[host]:
            found[host] = found.get(host, 0.0) + lease.gpu_seconds
    return found


def _jobset_of(host: str, hosts: Mapping[str, datetime]) -> str:
    """Return the JobSet among `hosts` that owns the pod `host` (named JOBSET-JOB-INDEX-INDEX), "" if there is none."""
    parts = host.split("-")
    for length in range(len(parts) - 1, 0, -1):
        name = "-".join(parts[:length])
        if name in hosts:
            return name
    return ""


def _end_of(pod: ObservedPod) -> datetime | None:
    """Return when a pod that still exists released its GPUs, None if it holds them."""
    return pod.gpu_end if pod.phase in TERMINAL else None


def _recorded_end(pod: BilledPod, workflows: Mapping[str, ObservedWorkflow]) -> datetime | None:
    """Return when Argo saw a deleted pod end; None if unknown. Argo ends the nodes of a stopped Workflow before their pods end."""
    workflow = workflows.get(pod.workflow)
    return None if workflow is None or workflow.was_stopped or not pod.node_id else workflow.finished.get(pod.node_id)


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
