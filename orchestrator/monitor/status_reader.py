"""Read a study's state: plan, records and leases from its store; its object, Workflows and pods from a cluster.

Called by `status`, `watch` and `logs`. Task states come from the same function as in the controller. Nothing is written.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator.cluster.port import Cluster, Document
from orchestrator.cluster.study_object import find_object, generation_of, phase_of, status_of
from orchestrator.contract.plan import Cell, Plan
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, LABEL_STUDY
from orchestrator.controller.lease_cache import LeaseCache, TaskActivity
from orchestrator.errors import InvalidStudy, KeyMissing, PlanRefused
from orchestrator.monitor.grid_table import AttemptProgress, CellProgress, cells_from_states
from orchestrator.monitor.study_view import StudyView
from orchestrator.planning import plan_study
from orchestrator.reconcile.observed import Observation, ObservedLease, ObservedPod, ObservedWorkflow, parse_pod, parse_workflow
from orchestrator.reconcile.policy import Policy
from orchestrator.reconcile.task_states import CELL_LETTERS, TaskState, TaskStatus, task_states
from orchestrator.spec import read_object
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import LeaseBody, history, is_live
from orchestrator.store.plans import current, current_spec, read_plan
from orchestrator.store.processes import current_host

_THREADS: Final = 16


class StatusReader:
    """Reads the state of one study repeatedly, and each time only what may have changed. Not thread-safe.

    `cluster`: None to read the store alone. `store`: the study's store; None if it is unreachable, then `trouble` gives the reason.
    `address`: the store's URL for display.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], datetime],
        *,
        store: Store | None,
        cluster: Cluster | None = None,
        trouble: str = "",
        address: str = "",
    ) -> None:
        self._name = name
        self._clock = clock
        self._cluster = cluster
        self._cache = None if store is None else LeaseCache(store)
        self._trouble = trouble
        self._address = address or (store.url if store else "")
        self._plans: dict[str, Plan] = {}
        self._cells: dict[int, tuple[Cell, ...]] = {}

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that is read, if any."""
        return self._cluster

    @property
    def store(self) -> Store | None:
        """The store, None if it is unreachable."""
        return self._cache.store if self._cache else None

    def read(self) -> StudyView:
        """Return the current state. Raises NotFound or PlanRefused if the study does not exist, ClusterError, StoreError."""
        bare = self._bare()
        if self._cache is None or bare.plan is None:
            return bare
        self._cache.read_done()
        workflows, pods = self._workflows(), bare.pods
        self._read_leases(self._cache, bare.plan, workflows, pods)
        leases = self._cache.leases(bare.plan, bare.now)
        attempts = self._attempts(self._cache, bare.plan, leases)
        leases = {digest: _checked(seen, attempts.get(digest), bare.now) for digest, seen in leases.items()}
        observed = Observation(self._cache.done, workflows, pods, leases)
        tasks = task_states(bare.plan, self._name, self._run_number(bare.body), observed, bare.now, _stall())
        roots = {work_root(task.kind, task.work) for task in bare.plan.tasks.values()}
        return replace(
            bare,
            tasks={digest: self._describe(seen, leases.get(digest)) for digest, seen in tasks.items()},
            damaged={digest: why for digest, why in self._cache.damaged_records.items() if digest in bare.plan.tasks},
            attempts=attempts,
            attempt_progress={digest: _progress(lease, bare.now) for digest, lease in attempts.items()},
            gpu_seconds=self._cache.gpu_seconds(roots, self._name),
        )

    # The study as a whole

    def _bare(self) -> StudyView:
        now, store = self._clock(), self.store
        if self._cluster is None:
            assert store is not None
            frozen = current(store, self._name)
            if frozen is None:
                raise PlanRefused(f"{store.url} has no study called {self._name}; create it with `scaling-study run FILE`")
            return StudyView(self._name, now, self._address, plan=frozen[1], budget=_budget(current_spec(store, self._name) or {}))
        body = find_object(self._cluster, self._name)
        plan, trouble = self._plan_of(body, store)
        return StudyView(
            name=self._name,
            now=now,
            store=self._address,
            body=body,
            namespace=self._cluster.namespace,
            plan=plan,
            trouble=trouble,
            reported_cells=self._reported_cells(body) if plan is None else (),
            pods=tuple(parse_pod(pod, {}) for page in self._cluster.pages("pods", self._labels) for pod in page.items),
            budget=_budget(body["spec"]),
        )

    def _plan_of(self, body: Document, store: Store | None) -> tuple[Plan | None, str]:
        """The plan that the controller uses, or None and the reason."""
        digest = str(status_of(body).get("planDigest", ""))
        if not digest:
            return None, "it has no plan yet"
        if store is None:
            return None, self._trouble
        if digest not in self._plans:
            try:
                self._plans = {digest: read_plan(store, digest)}
            except KeyMissing:
                return None, f"{store.url}, as reached from this machine, does not contain its plan {digest[:12]}"
        return self._plans[digest], ""

    def _reported_cells(self, body: Document) -> tuple[CellProgress, ...]:
        """Cells with the states in the object's status. A plan of the same spec gives their names; its digests are not used."""
        letters = str(status_of(body).get("cellStates", ""))
        states = {letter: state for state, letter in CELL_LETTERS.items()}
        if not letters or not phase_of(body) or not states.keys() >= set(letters):
            return ()
        if generation_of(body) not in self._cells:
            self._cells = {generation_of(body): _cells_of(body)}
        cells = self._cells[generation_of(body)]
        return tuple(cells_from_states(cells, [states[letter] for letter in letters])) if len(cells) == len(letters) else ()

    def _run_number(self, body: Document | None) -> int:
        """The run number in the status; 0 for local runs, so that failures of every run count."""
        return 0 if body is None else int(status_of(body).get("runNumber") or 1)

    # Cluster

    @property
    def _labels(self) -> dict[str, str]:
        return {LABEL_STUDY: self._name}

    def _workflows(self) -> tuple[ObservedWorkflow, ...]:
        """The study's Workflows, parsed page by page: an API object is about a hundred times larger than its parsed form."""
        if self._cluster is None:
            return ()
        return tuple(parse_workflow(body) for page in self._cluster.pages("workflows", self._labels) for body in page.items)

    # Store

    def _read_leases(self, cache: LeaseCache, plan: Plan, workflows: tuple[ObservedWorkflow, ...], pods: tuple[ObservedPod, ...]) -> None:
        """Read all leases once, then again those of tasks that finished, whose pods changed, or that may be running."""
        by_digest: dict[str, list[ObservedPod]] = {}
        for pod in pods:
            by_digest.setdefault(pod.digest, []).append(pod)
        ended: dict[str, list[str]] = {}
        for workflow in workflows:
            for digest in workflow.digests if workflow.is_over else ():
                ended.setdefault(digest, []).append(workflow.name)

        def activity(digest: str) -> TaskActivity:
            task_pods = by_digest.get(digest[:DIGEST_LABEL_LENGTH], [])
            could_run = self._cluster is None and cache.done.issuperset(plan.tasks[digest].needs)
            return TaskActivity(task_pods, ended.get(digest, ()), bool(task_pods) or could_run)

        cache.read_leases_of_plan(self._name, plan, activity, self._clock())

    def _attempts(self, cache: LeaseCache, plan: Plan, leases: Mapping[str, ObservedLease]) -> dict[str, LeaseBody]:
        """The last lease, read now, of every task that was started and is not done."""
        started = [digest for digest in leases if digest not in cache.done]
        if not started:
            return {}

        def last(digest: str) -> LeaseBody | None:
            task = plan.tasks[digest]
            own = [body for body in history(cache.store, work_root(task.kind, task.work)) if body.digest == digest]
            return own[-1] if own else None

        with ThreadPoolExecutor(min(_THREADS, len(started))) as threads:
            return {digest: body for digest, body in zip(started, threads.map(last, started), strict=True) if body is not None}

    def _describe(self, seen: TaskStatus, lease: ObservedLease | None) -> TaskStatus:
        """Interpret a lease without a Workflow of this study: a local run if no cluster is read, otherwise a run elsewhere."""
        if seen.state != TaskState.AWAITED:
            return seen
        if self._cluster is None:
            return TaskStatus(TaskState.RUNNING)
        holder = lease.study if lease is not None else ""
        return replace(seen, reason=f"study {holder} works on it" if holder and holder != self._name else seen.reason)


def _cells_of(body: Document) -> tuple[Cell, ...]:
    """The cells of a study's spec; empty if this version cannot read the spec."""
    try:
        return plan_study(read_object(body), {}).cells
    except (InvalidStudy, PlanRefused):
        return ()


def _checked(seen: ObservedLease, body: LeaseBody | None, now: datetime) -> ObservedLease:
    """The lease, marked as not live if its process was on this machine and has ended, even before it expires."""
    return replace(seen, is_live=is_live(body, now, current_host())) if seen.is_live and body is not None else seen


def _progress(body: LeaseBody, now: datetime) -> AttemptProgress:
    """Progress of an attempt: its last report while it is live, its checkpoint after it has ended."""
    live = is_live(body, now, current_host())
    reached = body.tokens if live else max(body.checkpoint or 0, body.from_tokens)
    return AttemptProgress(reached, max(0, body.tokens - body.from_tokens), (body.renewed - body.start).total_seconds(), live)


def _budget(spec: Mapping[str, Any]) -> str:
    hours = (spec.get("budget") or {}).get("gpuHours")
    return "" if hours is None else str(hours)


def _stall() -> timedelta:
    """Time without a step after which a task is shown as stalled. A namespace's policy may restart it earlier or later."""
    return timedelta(minutes=Policy().stall_minutes)
