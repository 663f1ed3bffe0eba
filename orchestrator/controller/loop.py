"""The main loop: list the namespace, reconcile every due study, repeat."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.queue import WorkQueue
from orchestrator.controller.snapshot import Snapshot, take_snapshot
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.errors import ClusterError, ScalingStudyError
from orchestrator.reconcile.policy import missing_limits, read_policy

LOG: Final = logging.getLogger(__name__)

# Changes within this time are reconciled together
DEBOUNCE_SECONDS: Final = 0.1
# Minimum pause between rounds. A listing that takes longer raises it, so that at most half of the time is spent on listing.
MIN_INTERVAL: Final = 0.2
# Interval of rounds while pods hold GPUs, so that the namespace's cap is enforced in time also for studies that are not reconciled
BILLING_SECONDS: Final = 10.0
# Consecutive failures before a study's status reports the error
FAILURES_BEFORE_REPORT: Final = 3


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """`relist`: seconds between reconciles of all studies, with or without watch events.

    `policy`: name of the ConfigMap with the namespace's policy, "" where there is none to read.
    """

    relist: float = 180.0
    policy: str = "scaling-study-policy"


class Loop:
    """The controller without its threads; `step()` runs one iteration of the main loop."""

    def __init__(
        self,
        cluster: Cluster,
        reconciler: StudyReconciler,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        options: LoopOptions | None = None,
        may_work: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = WorkQueue(monotonic)
        self.has_listed = threading.Event()
        """Set after the first complete round: the controller is then ready."""
        self.on_listed: Callable[[Snapshot], None] = lambda _: None
        """Callback after each listing, before the studies are reconciled."""
        self._cluster = cluster
        self._reconciler = reconciler
        self._metrics = metrics
        self._clock = clock
        self._options = options or LoopOptions()
        self._may_work = may_work
        self._monotonic = monotonic
        self._relist_at = float("-inf")
        self._not_before = float("-inf")
        self._bill_at = float("inf")
        self._waiting_for_others: set[str] = set()
        self._missing_limits = ""

    def relist(self) -> None:
        """Reconcile all studies in the next step."""
        self._relist_at = float("-inf")
        self.queue.wake()

    def wake(self, study: str) -> None:
        """Queue a study that has changed, and the studies that wait for other studies."""
        for name in {study, *self._waiting_for_others} - {""}:
            self.queue.add(name, DEBOUNCE_SECONDS)

    def step(self) -> None:
        """Run one round if any study is due. Errors of the cluster or the store are not raised; the study is queued again."""
        now = self._monotonic()
        is_full = now >= self._relist_at
        must_bill = now >= self._bill_at
        if not self._may_work() or now < self._not_before:
            return
        due = self.queue.take_due()
        if not (due or is_full or must_bill):
            return
        try:
            snapshot = take_snapshot(self._cluster, self._clock())
            self._read_policy()
        except ClusterError as problem:
            self._requeue_after_failed_listing(due, problem, "listed")
            return
        try:
            self._reconciler.begin_round(snapshot)
        except ClusterError as problem:
            self._requeue_after_failed_listing(due, problem, "billed")
            if not problem.retryable:
                self._report(snapshot.studies if is_full else due, snapshot, problem)
            return
        self._not_before = self._monotonic() + max(MIN_INTERVAL, self._monotonic() - now)
        self.queue.reset_backoff("")
        if is_full:
            self._relist_at = now + self._options.relist
        self.on_listed(snapshot)
        self._reconcile_all(dict.fromkeys((*due, *(snapshot.studies if is_full else ()))), snapshot)
        self._end_round(snapshot)
        self._bill_at = now + BILLING_SECONDS if self._reconciler.has_running_pods else float("inf")
        self._metrics.observe_round(self._monotonic() - now)
        # set last: a ready controller has reconciled every study that existed
        self.has_listed.set()

    def _read_policy(self) -> None:
        """Read the policy, and log once which limits it does not set. Raises ClusterError."""
        if not self._options.policy:
            return
        data = self._cluster.read_config(self._options.policy)
        self._reconciler.policy = read_policy(data)
        missing = missing_limits(data)
        if missing and missing != self._missing_limits:
            LOG.warning("ConfigMap %s: %s", self._options.policy, missing)
        self._missing_limits = missing

    def _end_round(self, snapshot: Snapshot) -> None:
        try:
            self._reconciler.end_round(snapshot)
        except ClusterError as problem:
            # the next round bills the same pods and leases again
            self._metrics.count_error(problem)
            LOG.warning("the namespace's account cannot be written; it is repeated in the next round: %s", problem)

    def _requeue_after_failed_listing(self, due: Iterable[str], problem: ClusterError, what: str) -> None:
        self._metrics.count_error(problem)
        after = self.queue.add_failed("")
        LOG.warning("the namespace cannot be %s; retrying in %.0f s: %s", what, after, problem)
        self._not_before = self._monotonic() + after
        for name in due:
            self.queue.add(name, after)

    def _reconcile_all(self, names: Iterable[str], snapshot: Snapshot) -> None:
        for name in names:
            if not self._may_work():
                self.queue.add(name)
            elif name in snapshot.studies:
                self._reconcile(name, snapshot)
            else:
                self.queue.forget(name)
                self._waiting_for_others.discard(name)

    def _reconcile(self, name: str, snapshot: Snapshot) -> None:
        try:
            after = self._reconciler.reconcile_once(name, snapshot)
        except Exception as problem:
            self._requeue_failed(name, snapshot, problem)
            return
        self.queue.reset_backoff(name)
        if after is not None:
            self.queue.add(name, after)
        if self._reconciler.waits_for_others(name, snapshot):
            self._waiting_for_others.add(name)
        else:
            self._waiting_for_others.discard(name)

    def _requeue_failed(self, name: str, snapshot: Snapshot, problem: Exception) -> None:
        """Queue a failed study again. Any exception is caught, so that one study never blocks the others."""
        self._metrics.count_error(problem)
        after = self.queue.add_failed(name)
        is_known = isinstance(problem, ScalingStudyError)
        LOG.warning("study %s: retrying in %.0f s: %s", name, after, problem, exc_info=None if is_known else problem)
        if self.queue.failures(name) >= FAILURES_BEFORE_REPORT:
            self._report((name,), snapshot, problem)

    def _report(self, names: Iterable[str], snapshot: Snapshot, problem: Exception) -> None:
        for name in names:
            try:
                if name in snapshot.studies:
                    self._reconciler.report_failure(snapshot.studies[name], problem)
            except ClusterError as write_problem:
                LOG.warning("study %s: the error could not be written to its status: %s", name, write_problem)

    def wait(self) -> None:
        """Sleep until the next step may have work."""
        now = self._monotonic()
        if not self._may_work():
            time.sleep(MIN_INTERVAL)
            return
        if now < self._not_before:
            time.sleep(self._not_before - now)
            return
        self.queue.wait(max(0.05, min(self._relist_at - now, 1.0)))
