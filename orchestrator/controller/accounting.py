"""Keep the namespace's GpuAccount object: bill pods in every round, compare leases, enforce the namespace's cap.

`study_reconciler` calls it. The object is written before anything is submitted, with the resource version that was read, so that two
controllers never overwrite each other's entries. A controller that was killed bills the same pods again from their own start and end.
"""

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeAlias

from orchestrator.cluster.port import Cluster, StudyReference
from orchestrator.contract.vocabulary import ACCOUNT_KIND, ACCOUNT_NAME, API_VERSION
from orchestrator.controller.lease_cache import LeaseCache, LeaseCaches
from orchestrator.controller.planning import roots_of_all_versions
from orchestrator.controller.snapshot import Snapshot
from orchestrator.errors import AlreadyExists, Conflict, NotFound, Refused, StoreError
from orchestrator.reconcile.account import Account, Entry, LeasedTime
from orchestrator.workflow import store_label

LOG: Final = logging.getLogger(__name__)
Document: TypeAlias = dict[str, Any]


class Accounting:
    """The account of one namespace. Not thread-safe. `caches`: the stores that leases are read from."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime], caches: LeaseCaches) -> None:
        self.account = Account()
        self._cluster = cluster
        self._clock = clock
        self._caches = caches
        self._stored: Document | None = None
        self._store_of_planned: dict[str, str] = {}
        """UID of each study that has a plan -> label of its store."""
        self._settled: dict[tuple[str, str], Hashable] = {}
        """State of the pods of entries without a plan when their leases were last read."""

    def begin_round(self, snapshot: Snapshot) -> None:
        """Read the account, bill the pods of this round, and write it. Raises ClusterError."""
        now = self._clock()
        self._stored = self._cluster.get("gpuaccounts", ACCOUNT_NAME)
        self.account = Account.from_status((self._stored or {}).get("status") or {})
        uids = {name: body["metadata"]["uid"] for name, body in snapshot.studies.items()}
        self.account.bill_pods(snapshot.pods, snapshot.workflows, uids, now)
        for uid, url in _store_by_study(snapshot).items():
            if (uid, store_label(url)) in self.account.entries:
                self.account.entries[uid, store_label(url)].url = url
        self._reset(now)
        self.account.fold(uids.values())
        self.save()

    def settle(self, study: str, uid: str, url: str, cache: LeaseCache, roots: Iterable[str], snapshot: Snapshot) -> None:
        """Compare the leases of a study, as they were read in this round, with its pods. Raises ClusterError.

        The entry of a new study is written at once, because its store could not be found if the study was deleted before the round's end.
        """
        store = store_label(url)
        is_new = (uid, store) not in self.account.entries
        entry = self.account.entry(study, uid, store, url)
        entry.is_closed = False
        self._store_of_planned[uid] = store
        self.account.settle(entry, _leased(study, cache, roots, snapshot), self._clock())
        if is_new:
            self.save()

    def forget_plan(self, uid: str) -> None:
        """Note that a study has no plan now: it is refused, waits for a plan, or is being deleted."""
        self._store_of_planned.pop(uid, None)

    def settle_unplanned(self, snapshot: Snapshot) -> None:
        """Settle the entries that no reconcile of a planned study settles.

        These are the entries of deleted and refused studies, and of stores that a study no longer uses. An entry whose leases cannot be
        read now is settled in a later round.
        """
        uids = {body["metadata"]["uid"] for body in snapshot.studies.values()}
        self._store_of_planned = {uid: store for uid, store in self._store_of_planned.items() if uid in uids}
        for entry in list(self.account.entries.values()):
            if self._store_of_planned.get(entry.uid) != entry.store and not entry.is_closed:
                self._settle_unplanned(entry, snapshot)
        self._settled = {key: state for key, state in self._settled.items() if key in self.account.entries}

    def _settle_unplanned(self, entry: Entry, snapshot: Snapshot) -> None:
        """Compare leases and pods of an entry if its pods have changed; close the entry once no pod exists."""
        pods = [
            (pod.uid, pod.exists, pod.end) for pod in self.account.pods.values() if (pod.study_uid, pod.store) == (entry.uid, entry.store)
        ]
        attempts = sum(sum(workflow.ended_attempts.values()) for workflow in snapshot.workflows_of_study(entry.study))
        state = (entry.uid, attempts, *sorted(pods))
        if self._settled.get((entry.uid, entry.store)) == state:
            return
        try:
            if entry.url:
                now, cache = self._clock(), self._caches.get(entry.url)
                roots = roots_of_all_versions(cache.store, entry.study)
                cache.read_leases(entry.study, dict.fromkeys(roots, state), (), now)
                self.account.settle(entry, _leased(entry.study, cache, roots, snapshot), now)
        except StoreError as problem:
            LOG.warning("the leases of study %s in %s cannot be read for its GPU-hours: %s", entry.study, entry.url, problem)
            if problem.retryable:
                return
        self._settled[entry.uid, entry.store] = state
        entry.is_closed = not any(exists for _, exists, _ in pods)

    def enforce_cap(self, gpu_hours: float | None, snapshot: Snapshot) -> None:
        """Stop every Workflow if the namespace's cap is exceeded, regardless of the state of its study. Raises ClusterError."""
        if gpu_hours is None or self.account.used <= gpu_hours * 3600:
            return
        for workflow in list(snapshot.workflows.values()):
            if workflow.digests and not workflow.is_over and not workflow.was_stopped:
                LOG.info(
                    "stopping Workflow %s: the namespace has used %.2f of %g GPU-hours", workflow.name, self.account.used / 3600, gpu_hours
                )
                self._cluster.stop_workflow(workflow.name)
                snapshot.add(replace(workflow, was_stopped=True))

    # The object

    def _reset(self, now: datetime) -> None:
        reason = str(((self._stored or {}).get("spec") or {}).get("reset") or "")
        before = self.account.used
        if not self.account.reset(reason, now):
            return
        assert self._stored is not None
        LOG.info("the GPU-hours of the namespace were reset from %.2f: %s", before / 3600, reason)
        about = StudyReference(ACCOUNT_NAME, self._stored["metadata"]["uid"], ACCOUNT_KIND)
        self._cluster.event(about, "AccountReset", f"{before / 3600:.2f} GPU-hours no longer count against the cap: {reason}"[:1024])

    def save(self) -> None:
        """Write the account if it has changed. Raises ClusterError; Conflict if another client changed it meanwhile."""
        status = self.account.to_status()
        if self._stored is not None and self._stored.get("status") == status:
            return
        try:
            if self._stored is None:
                body = {"apiVersion": API_VERSION, "kind": ACCOUNT_KIND, "metadata": {"name": ACCOUNT_NAME}, "spec": {}, "status": status}
                self._stored = self._cluster.create("gpuaccounts", body)
            else:
                version = self._stored["metadata"]["resourceVersion"]
                changes = {"metadata": {"resourceVersion": version}, "status": status}
                self._stored = self._cluster.patch("gpuaccounts", ACCOUNT_NAME, changes)
        except AlreadyExists as problem:
            raise Conflict(str(problem)) from problem
        except NotFound as problem:
            raise Refused(
                f"GPU-hours cannot be recorded, so nothing is submitted: {problem}\n"
                "    Install the resource type GpuAccount with: kubectl apply -k manifests/overlays/..."
            ) from problem


def _leased(study: str, cache: LeaseCache, roots: Iterable[str], snapshot: Snapshot) -> list[LeasedTime]:
    finished: dict[str, datetime] = {}
    for workflow in snapshot.workflows_of_study(study):
        finished.update(workflow.finished)
    return [lease.until(finished) for lease in cache.leased_times(roots, study)]


def _store_by_study(snapshot: Snapshot) -> dict[str, str]:
    """Return the UID of each study object -> the URL of its store."""
    specs = ((body["metadata"]["uid"], body.get("spec")) for body in snapshot.studies.values())
    return {uid: spec["store"] for uid, spec in specs if isinstance(spec, dict) and isinstance(spec.get("store"), str)}
