"""Cache of the facts that stores hold about tasks: completed tasks, leases, and costs.

One cache per store; the controller and `orchestrator.monitor` use it. The lease history of a work root is read again only if something
that it depends on has changed: every few seconds while a task runs, once more after it has ended.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from sys import intern
from typing import Final

from orchestrator.contract.exits import ExitCode, meaning_of
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import CLOCK_MARGIN
from orchestrator.errors import KeyMissing, StoreUnavailable
from orchestrator.reconcile.account import LeasedTime
from orchestrator.reconcile.observed import ObservedLease, ObservedPod
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import LeaseBody, history, record_end, seconds
from orchestrator.store.maintenance import GcReport, read_gc_report
from orchestrator.store.records import IntactRecords, done

# A lease is renewed every five seconds at most (orchestrator.store.leases.RENEW_SECONDS)
REREAD_AFTER: Final = timedelta(seconds=10)
# Garbage collection runs about once a day
REREAD_REPORT_AFTER: Final = timedelta(minutes=5)
# Reading a history takes one listing and one read per lease; a store serves dozens of requests concurrently
_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Cached fields of a lease. `expires`: when the lease expires, None if the attempt has ended."""

    digest: str
    study: str
    run_number: int
    renewed: datetime
    expires: datetime | None
    code: int | None
    message: str
    gpu_seconds: float
    seconds: float
    trained: int
    reached: int
    start: datetime
    number: int
    host: str
    node: str
    gpus: int


@dataclass(slots=True)
class _History:
    """Cached attempts on a work root.

    `depends_on`: study -> the facts that the cached attempts depend on. Studies that share a trajectory have different tasks on it.
    """

    attempts: tuple[_Attempt, ...]
    depends_on: dict[str, Hashable]
    read_at: datetime


@dataclass(frozen=True, slots=True)
class TaskActivity:
    """What a cluster shows of a task. A change invalidates its cached leases; while `is_active`, they are read every few seconds."""

    pods: Sequence[ObservedPod]
    ended_workflows: Sequence[str]
    is_active: bool
    ended_attempts: int = 0


class LeaseCache:
    """Facts of one store. Not thread-safe."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: frozenset[str] = frozenset()
        """Tasks that are marked as finished, without those whose record `check_records` found to be damaged or missing."""
        self.created: set[str] = set()
        """Digests whose `task.json` is known to exist."""
        self.retention: GcReport | None = None
        """Report of the last garbage collection of the store."""
        self._records = IntactRecords(store)
        self._histories: dict[str, _History] = {}
        self._retention_read_at: datetime | None = None

    def read_done(self) -> None:
        """List the completed tasks; called once per round. Raises StoreUnavailable."""
        marked = frozenset(intern(digest) for digest in done(self.store))
        self._records.forget_others(marked)
        self.done = marked - self._records.damaged.keys()

    @property
    def damaged_records(self) -> Mapping[str, str]:
        """Digest -> reason, for tasks marked as finished whose record is damaged or missing."""
        return self._records.damaged

    def check_records(self, digests: Iterable[str]) -> None:
        """Read the records of these tasks that are marked as finished: each once, a damaged one at every call until it is replaced.

        A task with a damaged or missing record is not done: it runs again, and the trainer quarantines the record. Raises StoreUnavailable.
        """
        asked = [digest for digest in digests if digest in self.done or digest in self._records.damaged]
        intact = self._records.finished(asked)
        self.done = (self.done - self._records.damaged.keys()) | intact

    def read_retention(self, now: datetime) -> None:
        """Read the garbage-collection report if the cached one is some minutes old. Raises StoreUnavailable."""
        if self._retention_read_at is None or now - self._retention_read_at >= REREAD_REPORT_AFTER:
            self.retention, self._retention_read_at = read_gc_report(self.store), now

    def read_leases_of_plan(
        self, study: str, plan: Plan, activity: Callable[[str], TaskActivity], now: datetime, other_roots: Iterable[str] = ()
    ) -> None:
        """Check the records of a plan's tasks, and read the lease histories that may have changed.

        `activity`: returns the activity of a digest. `other_roots`: work roots of earlier plans, read once. Raises StoreUnavailable.
        """
        self.check_records(plan.tasks)
        depends_on: dict[str, list[Hashable]] = defaultdict(list)
        active: set[str] = set()
        for digest, task in plan.tasks.items():
            root, seen = work_root(task.kind, task.work), activity(digest)
            pods = [(pod.name, pod.phase, pod.deletion_deadline is None) for pod in seen.pods]
            depends_on[root].append((digest in self.done, seen.ended_attempts, *seen.ended_workflows, *pods))
            if seen.is_active and digest not in self.done:
                active.add(root)
        roots = {**dict.fromkeys(other_roots, ()), **{root: tuple(parts) for root, parts in depends_on.items()}}
        self.read_leases(study, roots, active, now)

    def read_leases(self, study: str, roots: Mapping[str, Hashable], active: Iterable[str], now: datetime) -> None:
        """Read the lease histories that may have changed.

        `roots`: work root -> state on which its history depends, as `study` sees it; a change causes a read. `active`: roots with running
        tasks, read every few seconds. Raises StoreUnavailable.
        """
        active_roots = set(active)
        stale = [root for root, depends_on in roots.items() if self._is_stale(study, root, depends_on, root in active_roots, now)]
        if not stale:
            return
        with ThreadPoolExecutor(min(_THREADS, len(stale))) as threads:
            for root, bodies in zip(stale, threads.map(lambda root: history(self.store, root), stale), strict=True):
                before = self._histories.get(root)
                depends_on = {**(before.depends_on if before else {}), study: roots[root]}
                self._histories[root] = _History(tuple(map(_attempt, bodies)), depends_on, now)

    def _is_stale(self, study: str, root: str, depends_on: Hashable, is_active: bool, now: datetime) -> bool:
        known = self._histories.get(root)
        if known is None or known.depends_on.get(study) != depends_on:
            return True
        live = any(attempt.expires is not None and attempt.expires > now for attempt in known.attempts)
        return (is_active or live) and now - known.read_at >= REREAD_AFTER

    def record_failure(self, root: str, attempt: int, reason: str) -> None:
        """Record in an attempt's lease that its task failed permanently. Raises StoreError."""
        self._histories[root].depends_on.clear()
        with suppress(KeyMissing):  # the lease was removed by garbage collection
            record_end(self.store, root, attempt, ExitCode.REFUSED.name.lower(), ExitCode.REFUSED, reason)

    def leases(self, plan: Plan, now: datetime) -> dict[str, ObservedLease]:
        """Return the last lease of every task of the plan that has one."""
        found: dict[str, ObservedLease] = {}
        for digest, task in plan.tasks.items():
            known = self._histories.get(work_root(task.kind, task.work))
            own = [attempt for attempt in known.attempts if attempt.digest == digest] if known else []
            if own:
                found[digest] = _observed_lease(own, now)
        return found

    def gpu_seconds(self, roots: Iterable[str], study: str) -> float:
        """Return the GPU-seconds of a study's attempts on these work roots."""
        return sum(attempt.gpu_seconds for root in roots for attempt in self._attempts(root) if attempt.study == study)

    def leased_times(self, roots: Iterable[str], study: str) -> list[LeasedTime]:
        """Return the GPU-seconds of each of a study's attempts on these work roots."""
        own = (attempt for root in roots for attempt in self._attempts(root) if attempt.study == study)
        return [
            LeasedTime(attempt.host, attempt.start, attempt.gpu_seconds, attempt.gpus, attempt.node, attempt.code is not None)
            for attempt in own
        ]

    def gpu_seconds_of_task(self, root: str, digest: str) -> float:
        return sum(attempt.gpu_seconds for attempt in self._attempts(root) if attempt.digest == digest)

    def highest_run(self, roots: Iterable[str], study: str, before: datetime) -> int:
        """Return the highest run number of a study's attempts on these roots that started before a time, 0 if there are none."""
        own = (attempt for root in roots for attempt in self._attempts(root) if attempt.study == study)
        return max((attempt.run_number for attempt in own if attempt.start < before), default=0)

    def causes(self, roots: Iterable[str], study: str) -> dict[str, float]:
        """Return the GPU-seconds of a study's attempts on these roots by the cause of their end."""
        found: dict[str, float] = defaultdict(float)
        for root in roots:
            for attempt in self._attempts(root):
                if attempt.study == study:
                    found[_cause(attempt)] += attempt.gpu_seconds
        return found

    def _attempts(self, root: str) -> tuple[_Attempt, ...]:
        known = self._histories.get(root)
        return known.attempts if known else ()


class LeaseCaches:
    """The caches of all stores by URL. Each store's completed tasks are listed once per round."""

    def __init__(self, open_store: Callable[[str], Store]) -> None:
        self._open_store = open_store
        self._caches: dict[str, LeaseCache] = {}
        self._listed: set[str] = set()
        self._unreachable: dict[str, StoreUnavailable] = {}

    def begin_round(self) -> None:
        self._listed.clear()
        self._unreachable.clear()

    def get(self, url: str) -> LeaseCache:
        """Return the cache of a store. Raises StoreUnavailable, which is remembered until the next round."""
        if url not in self._caches:
            self._caches[url] = LeaseCache(self._open_store(url))
        cache = self._caches[url]
        if url in self._unreachable:
            raise self._unreachable[url]
        if url not in self._listed:
            try:
                cache.read_done()
            except StoreUnavailable as problem:
                # the store client retries for some time; that must not be repeated for every study of the round
                self._unreachable[url] = problem
                raise
            self._listed.add(url)
        return cache


def _attempt(body: LeaseBody) -> _Attempt:
    """Convert a lease. Its holder runs in another pod, so only the expiry time tells whether it is alive."""
    expires = None if body.ended else body.renewed + timedelta(seconds=body.lease_seconds) + CLOCK_MARGIN
    return _Attempt(
        digest=intern(body.digest),
        study=intern(body.study),
        run_number=body.run_number,
        renewed=body.renewed,
        expires=expires,
        code=body.ended.code if body.ended else None,
        message=body.ended.message if body.ended else "",
        gpu_seconds=seconds(body) * body.gpus,
        seconds=seconds(body),
        trained=max(0, body.tokens - body.from_tokens),
        reached=body.tokens,
        start=body.start,
        number=body.number,
        host=intern(body.host),
        node=intern(body.workflow_node),
        gpus=body.gpus,
    )


def _observed_lease(attempts: list[_Attempt], now: datetime) -> ObservedLease:
    last = attempts[-1]
    return ObservedLease(
        study=last.study,
        run_number=last.run_number,
        is_live=last.expires is not None and last.expires > now,
        renewed=last.renewed,
        code=last.code,
        message=last.message,
        gpu_seconds=sum(attempt.gpu_seconds for attempt in attempts),
        seconds=sum(attempt.seconds for attempt in attempts),
        trained=sum(attempt.trained for attempt in attempts),
        reached=last.reached,
        start=last.start,
        number=last.number,
    )


def _cause(attempt: _Attempt) -> str:
    """Return the cause of the attempt's end; "unended" if it runs or its process was lost."""
    return "unended" if attempt.code is None else meaning_of(attempt.code).cause
