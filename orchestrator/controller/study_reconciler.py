"""One reconcile of one study: read the store, decide, apply the actions, emit events, write the status.

`loop` calls it for every due study with the round's snapshot. All state kept between reconciles is a cache and can be read again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from orchestrator.cluster.port import Cluster
from orchestrator.cluster.study_object import retry_requested
from orchestrator.controller.accounting import Accounting
from orchestrator.controller.applying import Applier
from orchestrator.controller.decision_inputs import read_leases, study_facts, study_limits
from orchestrator.controller.events import EventRecorder
from orchestrator.controller.fair_share import FairShare
from orchestrator.controller.file_fingerprints import FileFingerprints, fingerprint_workflow_name
from orchestrator.controller.lease_cache import LeaseCache, LeaseCaches
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.planning import Planned, Unplanned, accept, allow, plan, refuse_retry
from orchestrator.controller.snapshot import Snapshot
from orchestrator.controller.status_writer import StatusWriter, retention_status, unplanned_status, with_rejection
from orchestrator.reconcile import Decision, StudyEvent, Submit, reconcile
from orchestrator.reconcile.observed import Observation
from orchestrator.reconcile.policy import Policy
from orchestrator.reconcile.task_states import TaskState
from orchestrator.spec import Study
from orchestrator.store import Store
from orchestrator.study.opening import paths_by_fingerprint
from orchestrator.workflow import WAITER_IMAGE, PodSettings, store_label

LOG: Final = logging.getLogger(__name__)
Document: TypeAlias = dict[str, Any]

# Interval while a study is active, also without watch events: progress, cost and stalls cause no event
ACTIVE_SECONDS: Final = 10.0
# Interval after actions were applied
AFTER_ACTIONS_SECONDS: Final = 1.0


@dataclass(slots=True)
class _CachedStudy:
    """State of a study between reconciles. `version`: uid and generation from which `study` and `planned` were made."""

    version: tuple[str, int]
    study: Study | Unplanned
    planned: Planned | None = None
    final_failures: dict[str, str] = field(default_factory=dict)
    """Reason of each permanent failure by digest; kept because another study's Workflow may replace the one that shows it."""
    failures_run_number: int = 0
    """Run number to which `final_failures` belongs."""


class StudyReconciler:
    """Reconciles all studies of a namespace. Not thread-safe.

    `open_store`: opens a store by URL. `image`: image of pods that fingerprint files, "" for the study's own. `waiter_image`: image of
    pods that wait for multi-node training.
    """

    def __init__(
        self,
        cluster: Cluster,
        open_store: Callable[[str], Store],
        clock: Callable[[], datetime],
        metrics: Metrics,
        image: str = "",
        waiter_image: str = "",
    ) -> None:
        self.policy = Policy()
        self.on_reconciled: Callable[[Planned, Decision], None] = lambda _planned, _decision: None
        """Callback after each reconcile of a planned study."""
        self._cluster = cluster
        self._clock = clock
        self._metrics = metrics
        self._waiter_image = waiter_image or WAITER_IMAGE
        self._fair_share = FairShare()
        self._events = EventRecorder(cluster, clock)
        self._status = StatusWriter(cluster, clock)
        self._files = FileFingerprints(cluster, image)
        self._studies: dict[str, _CachedStudy] = {}
        self._caches = LeaseCaches(open_store)
        self._accounting = Accounting(cluster, clock, self._caches)

    @property
    def has_running_pods(self) -> bool:
        """Whether pods hold GPUs. The next round then starts without waiting for a change."""
        return self._accounting.account.has_running_pods

    def begin_round(self, snapshot: Snapshot) -> None:
        """Forget deleted studies, and bill the pods of the namespace.

        Each store is listed once per round. Raises ClusterError: nothing may be submitted then, because it could not be billed.
        """
        for name in set(self._studies) - set(snapshot.studies):
            del self._studies[name]
            self._fair_share.forget(name)
            self._metrics.forget(name)
        self._events.retain({known.version[0] for known in self._studies.values()})
        self._caches.begin_round()
        self._accounting.begin_round(snapshot)

    def end_round(self, snapshot: Snapshot) -> None:
        """Complete and write the namespace's account; stop all pods if its cap is exceeded. Raises ClusterError."""
        self._accounting.settle_unplanned(snapshot)
        self._accounting.enforce_cap(self.policy.gpu_hours, snapshot)
        self._metrics.set_account(self._accounting.account.parts)
        self._accounting.save()

    def waits_for_others(self, name: str, snapshot: Snapshot) -> bool:
        """Return whether the study waits for a task that another study runs, or is the next to submit a Workflow."""
        known = self._studies.get(name)
        if known is None or known.planned is None:
            return False
        if self._fair_share.is_first(name):
            return True
        workflows, _ = snapshot.related(name, known.planned.plan.tasks, store_label(known.planned.study.spec.store))
        return any(workflow.study != name and not workflow.is_over for workflow in workflows)

    def reconcile_once(self, name: str, snapshot: Snapshot) -> float | None:
        """Reconcile a study and return the seconds until the next reconcile, None to wait for an event.

        Raises ClusterError, StoreError; the reconcile can be repeated later without loss.
        """
        body = snapshot.studies[name]
        if "deletionTimestamp" in body["metadata"]:
            self._accounting.forget_plan(body["metadata"]["uid"])
            return self._stop_running(name, snapshot)
        started = time.perf_counter()
        known = self._cached(name, body)
        queued_since = self._fair_share.dequeue(name, self._clock())
        found = self._plan(known, body)
        if isinstance(found, Planned):
            after = self._reconcile_planned(known, found, body, snapshot, queued_since)
        else:
            after = self._reconcile_unplanned(found, body, snapshot)
        self._metrics.observe_reconcile(time.perf_counter() - started)
        return after

    def report_failure(self, body: Document, problem: Exception) -> None:
        """Set the Degraded condition after an error that ended a reconcile. Raises ClusterError."""
        self._status.report_failure(body, problem)

    def _cached(self, name: str, body: Document) -> _CachedStudy:
        metadata = body["metadata"]
        version = metadata["uid"], metadata.get("generation", 1)
        known = self._studies.get(name)
        if known is None or known.version != version:
            known = self._studies[name] = _CachedStudy(version, accept(body))
        return known

    def _plan(self, known: _CachedStudy, body: Document) -> Planned | Unplanned:
        if isinstance(known.study, Unplanned):
            return known.study
        forbidden = refuse_retry(retry_requested(body)) or allow(known.study, self.policy)
        if forbidden is not None:
            return forbidden
        if known.planned is None:
            found = plan(known.study, body["metadata"]["uid"], self._caches.get(known.study.spec.store).store)
            if isinstance(found, Unplanned):
                return found
            known.planned = found
        return known.planned

    def _reconcile_unplanned(self, why: Unplanned, body: Document, snapshot: Snapshot) -> float | None:
        name = body["metadata"]["name"]
        self._accounting.forget_plan(body["metadata"]["uid"])
        stops = why.phase == "Refused" or (isinstance(body["spec"], dict) and bool(body["spec"].get("paused")))
        after = self._stop_running(name, snapshot) if stops else ACTIVE_SECONDS
        self._files.delete_outdated(name, fingerprint_workflow_name(why), snapshot)
        if why.files is not None and why.study is not None:
            self._files.submit(why, self._pod_settings(why.study, body, 1, {}), snapshot)
        status = unplanned_status(body, why, self._clock(), is_stopping=stops and after is not None)
        if why.phase == "Refused":
            self._events.record(body, [StudyEvent(why.reason, why.message.partition("\n")[0][:512], is_warning=True)])
        self._status.write(body, status)
        return after if why.phase == "Refused" else ACTIVE_SECONDS

    def _stop_running(self, name: str, snapshot: Snapshot) -> float | None:
        """Stop the Workflows of a study that is refused, paused without a plan, or being deleted.

        Return the seconds until the next reconcile, None once nothing runs.
        """
        running = [workflow for workflow in snapshot.workflows_of_study(name) if workflow.digests]
        for workflow in running:
            if not workflow.is_over and not workflow.was_stopped:
                LOG.info("study %s: stopping Workflow %s, because the study is refused, paused or being deleted", name, workflow.name)
                self._cluster.stop_workflow(workflow.name)
        names = {workflow.name for workflow in running}
        has_pods = any(pod.workflow in names and not pod.is_over for pod in snapshot.pods)
        return ACTIVE_SECONDS if has_pods or not all(workflow.is_over for workflow in running) else None

    def _reconcile_planned(
        self, known: _CachedStudy, planned: Planned, body: Document, snapshot: Snapshot, queued_since: datetime
    ) -> float | None:
        study, now = planned.study, self._clock()
        self._files.delete_outdated(study.name, "", snapshot)
        cache = self._caches.get(study.spec.store)
        read_leases(planned, cache, snapshot, now)
        facts = study_facts(planned, cache, body)
        uid = body["metadata"]["uid"]
        self._accounting.settle(study.name, uid, study.spec.store, cache, planned.roots, snapshot)
        spent = max(cache.gpu_seconds(planned.roots, study.name), self._accounting.account.billed_by_study()[uid])
        if known.failures_run_number != facts.run_number:
            known.final_failures, known.failures_run_number = {}, facts.run_number
        observed = self._observe(planned, cache, snapshot, known.final_failures, spent, queued_since)
        decision = reconcile(facts, planned.plan, planned.units, observed, study_limits(planned, cache, self.policy), now)
        settings = self._pod_settings(study, body, facts.run_number, paths_by_fingerprint(study, planned.plan))
        applier = Applier(self._cluster, cache, snapshot, planned.plan, settings)
        applier.apply(decision.actions)
        self._fair_share.set_usage(study.name, spent, decision.promised)
        known.final_failures |= {digest: seen.reason for digest, seen in decision.tasks.items() if seen.state == TaskState.FAILED}
        if decision.queued:
            # a study that submitted a Workflow moves to the end of the queue
            has_submitted = any(isinstance(action, Submit) for action in decision.actions)
            self._fair_share.enqueue(study.name, now if has_submitted else queued_since)
        cache.read_retention(now)
        status = {**with_rejection(decision.status, applier.rejections, facts, now), **retention_status(cache.retention)}
        rejected = [StudyEvent("SubmitRefused", text[:512], is_warning=True) for text in applier.rejections]
        # events first: they are derived from the old status, so a controller killed in between emits them twice rather than never
        self._events.record(body, [*decision.events, *rejected])
        self._status.write(body, status)
        self._metrics.set_study(study.name, status, cache.causes(planned.roots, study.name))
        self.on_reconciled(planned, decision)
        return _seconds_until_next(status, bool(decision.actions), bool(applier.rejections))

    def _observe(
        self, planned: Planned, cache: LeaseCache, snapshot: Snapshot, failures: Mapping[str, str], spent: float, queued_since: datetime
    ) -> Observation:
        name = planned.study.name
        workflows, pods = snapshot.related(name, planned.plan.tasks, store_label(planned.study.spec.store))
        return Observation(
            done=cache.done,
            workflows=workflows,
            pods=pods,
            leases=cache.leases(planned.plan, self._clock()),
            spent=spent,
            namespace_spent=self._fair_share.namespace_usage(name, self._accounting.account, snapshot.studies, spent),
            others_promised=self._fair_share.promised_to_others(name, snapshot.studies),
            others_in_flight=snapshot.count_running_of_others(name),
            others_first=self._fair_share.count_ahead(queued_since),
            final_failures=failures,
        )

    def _pod_settings(self, study: Study, body: Document, number: int, input_paths: Mapping[str, list[str]]) -> PodSettings:
        return PodSettings(
            namespace=self._cluster.namespace,
            study=study.name,
            study_uid=body["metadata"]["uid"],
            store=study.spec.store,
            run_number=number,
            execution=self.policy.with_defaults(study.spec.execution),
            inputs=input_paths,
            checkpoint_seconds=self.policy.checkpoint_seconds,
            defaults=self.policy.pod_defaults,
            waiter_image=self._waiter_image,
            shards_claim=self.policy.shards_claim,
        )


def _seconds_until_next(status: Mapping[str, Any], has_acted: bool, was_rejected: bool) -> float | None:
    if has_acted and not was_rejected:
        return AFTER_ACTIONS_SECONDS
    return None if status["phase"] in ("Succeeded", "Failed", "Paused") else ACTIVE_SECONDS
