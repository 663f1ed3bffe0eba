"""Rounds: list once, look at every study that is due, and again, until asked to stop."""

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
from orchestrator.controller.study_reconciler import Passes
from orchestrator.errors import ClusterError, ScalingStudyError
from orchestrator.reconcile.policy import read_policy

LOG: Final = logging.getLogger(__name__)

# What changes at the same moment is looked at once
DEBOUNCE_SECONDS: Final = 0.1
# Rounds keep this distance, or that of the last listing if it took longer: at most half of the time is spent on listing
LEAST_DISTANCE: Final = 0.2
# So many failures in a row before a study's status says that something is away
FAILURES_TO_TELL: Final = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """`relist`: seconds between two looks at everything, whatever the watches say. `policy`: name of the ConfigMap."""

    relist: float = 180.0
    policy: str = "scaling-study-policy"


class Loop:
    """All of it but threads: `turn` is one step of the main thread."""

    def __init__(
        self,
        cluster: Cluster,
        passes: Passes,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        pace: Pace | None = None,
        may_work: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = WorkQueue(monotonic)
        self.has_listed = threading.Event()
        """Set by the first round that listed the namespace: then the controller is ready."""
        self.listed: Callable[[Snapshot], None] = lambda _: None
        self._cluster = cluster
        self._passes = passes
        self._metrics = metrics
        self._clock = clock
        self._pace = pace or Pace()
        self._may_work = may_work
        self._monotonic = monotonic
        self._relist_at = float("-inf")
        self._not_before = float("-inf")
        self._waiting_for_others: set[str] = set()

    def relist(self) -> None:
        """Look at everything with the next turn."""
        self._relist_at = float("-inf")
        self.queue.wake()

    def wake(self, study: str) -> None:
        """Something about this study has changed."""
        for name in {study, *self._waiting_for_others} - {""}:
            self.queue.add(name, DEBOUNCE_SECONDS)

    def turn(self) -> None:
        """One round if something is due; what fails is due again later. Never raises for what a cluster or a store does."""
        now = self._monotonic()
        is_full = now >= self._relist_at
        if not self._may_work() or now < self._not_before:
            return
        due = self.queue.take_due()
        if not due and not is_full:
            return
        try:
            snapshot = take_snapshot(self._cluster, self._clock())
            self._passes.policy = read_policy(self._cluster.read_config(self._pace.policy))
        except ClusterError as problem:
            self._cannot_list(due, problem)
            return
        self._not_before = self._monotonic() + max(LEAST_DISTANCE, self._monotonic() - now)
        self.queue.succeeded("")
        if is_full:
            self._relist_at = now + self._pace.relist
        self._passes.begin_round(set(snapshot.studies))
        self.listed(snapshot)
        self._look_at_all(dict.fromkeys((*due, *(snapshot.studies if is_full else ()))), snapshot)
        self._metrics.went_round(self._monotonic() - now)
        # only now: whoever asks for readiness may expect that what was there has been looked at
        self.has_listed.set()

    def _cannot_list(self, due: Iterable[str], problem: ClusterError) -> None:
        self._metrics.failed(problem)
        after = self.queue.add_failed("")
        LOG.warning("the namespace cannot be listed, again in %.0f s: %s", after, problem)
        self._not_before = self._monotonic() + after
        for name in due:
            self.queue.add(name, after)

    def _look_at_all(self, names: Iterable[str], snapshot: Snapshot) -> None:
        for name in names:
            if not self._may_work():
                self.queue.add(name)
            elif name in snapshot.studies:
                self._look_at(name, snapshot)
            else:
                self.queue.forget(name)
                self._waiting_for_others.discard(name)

    def _look_at(self, name: str, snapshot: Snapshot) -> None:
        try:
            after = self._passes.look_at(name, snapshot)
        except Exception as problem:
            self._failed(name, snapshot, problem)
            return
        self.queue.succeeded(name)
        if after is not None:
            self.queue.add(name, after)
        if self._passes.awaits(name, snapshot):
            self._waiting_for_others.add(name)
        else:
            self._waiting_for_others.discard(name)

    def _failed(self, name: str, snapshot: Snapshot, problem: Exception) -> None:
        """One study's trouble, a mistake of ours included, is not the others'."""
        self._metrics.failed(problem)
        after = self.queue.add_failed(name)
        is_known = isinstance(problem, ScalingStudyError)
        LOG.warning("study %s: again in %.0f s: %s", name, after, problem, exc_info=None if is_known else problem)
        if self.queue.failures(name) >= FAILURES_TO_TELL:
            try:
                self._passes.complain(snapshot.studies[name], problem)
            except ClusterError as trouble:
                LOG.warning("study %s: its status cannot be written either: %s", name, trouble)

    def wait(self) -> None:
        """Sleep until a turn may have something to do."""
        now = self._monotonic()
        if not self._may_work():
            time.sleep(LEAST_DISTANCE)
            return
        if now < self._not_before:
            time.sleep(self._not_before - now)
            return
        self.queue.wait(max(0.05, min(self._relist_at - now, 1.0)))
