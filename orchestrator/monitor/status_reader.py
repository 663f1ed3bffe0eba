"""Reads what there is to see of a study: plan, records and leases from its store, its object, Workflows and pods from a cluster.

`status`, `watch` and `logs` look through it. States come from the function that the controller decides by; nothing is written.
"""

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from orchestrator.cluster.port import Cluster, Document
from orchestrator.cluster.study_object import find_object, generation_of, phase_of, status_of
from orchestrator.contract.plan import Cell, Plan
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, LABEL_STUDY
from orchestrator.controller.lease_cache import Ledger
from orchestrator.errors import KeyMissing, PlanRefused, StudyMistakes
from orchestrator.monitor.grid_table import CellStanding, Work, cells_without_tasks
from orchestrator.monitor.study_view import StudyView
from orchestrator.planning import plan_study
from orchestrator.reconcile.observe import (
    CELL_LETTERS,
    LeaseSeen,
    Observed,
    PodSeen,
    TaskSeen,
    TaskState,
    WorkflowSeen,
    pod_seen,
    task_states,
    workflow_seen,
)
from orchestrator.reconcile.policy import Policy
from orchestrator.spec import read_object
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import LeaseBody, history, is_live
from orchestrator.store.plans import current, current_spec, read_plan
from orchestrator.store.processes import here

_THREADS: Final = 16


class Lookout:
    """Looks at one study again and again, and reads only what may have changed. Not shared between threads.

    `cluster`: None for a study that only the store tells of. `store`: what the study's store is opened with; None, with `trouble`, where
    it is out of reach. `address`: of the store, for people.
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
        self._ledger = None if store is None else Ledger(store)
        self._trouble = trouble
        self._address = address or (store.url if store else "")
        self._plans: dict[str, Plan] = {}
        self._cells: dict[int, tuple[Cell, ...]] = {}

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that is asked, if any."""
        return self._cluster

    @property
    def store(self) -> Store | None:
        """The store, None where it is out of reach."""
        return self._ledger.store if self._ledger else None

    def look(self) -> StudyView:
        """The study now. Raises NotThere, PlanRefused for one that is not there, ClusterError, StoreError."""
        bare = self._bare()
        if self._ledger is None or bare.plan is None:
            return bare
        self._ledger.read_done()
        workflows, pods = self._workflows(), bare.pods
        self._read_leases(self._ledger, bare.plan, workflows, pods)
        leases = self._ledger.leases(bare.plan, bare.now)
        attempts = self._attempts(self._ledger, bare.plan, leases)
        leases = {digest: _checked(seen, attempts.get(digest), bare.now) for digest, seen in leases.items()}
        observed = Observed(self._ledger.done, workflows, pods, leases)
        tasks = task_states(bare.plan, self._name, self._run_number(bare.body), observed, bare.now, _stall())
        roots = {work_root(task.kind, task.work) for task in bare.plan.tasks.values()}
        return replace(
            bare,
            tasks={digest: self._worded(seen, leases.get(digest)) for digest, seen in tasks.items()},
            attempts=attempts,
            works={digest: _work(lease, bare.now) for digest, lease in attempts.items()},
            gpu_seconds=self._ledger.gpu_seconds(roots, self._name),
        )

    # Where it stands as a whole

    def _bare(self) -> StudyView:
        now, store = self._clock(), self.store
        if self._cluster is None:
            assert store is not None
            frozen = current(store, self._name)
            if frozen is None:
                raise PlanRefused(f"{store.url} has no study called {self._name}; `scaling-study run FILE` begins one")
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
            told=self._told(body) if plan is None else (),
            pods=tuple(pod_seen(pod, {}) for page in self._cluster.pages("pods", self._labels) for pod in page.items),
            budget=_budget(body["spec"]),
        )

    def _plan_of(self, body: Document, store: Store | None) -> tuple[Plan | None, str]:
        """The plan that the controller works by, and why there is none."""
        digest = str(status_of(body).get("planDigest", ""))
        if not digest:
            return None, "it has no plan yet"
        if store is None:
            return None, self._trouble
        if digest not in self._plans:
            try:
                self._plans = {digest: read_plan(store, digest)}
            except KeyMissing:
                return None, f"{store.url}, as it is seen from here, does not hold its plan {digest[:12]}"
        return self._plans[digest], ""

    def _told(self, body: Document) -> tuple[CellStanding, ...]:
        """The cells by the letters in the status, named by a plan of the same spec whose digests nobody needs here."""
        letters = str(status_of(body).get("cellStates", ""))
        states = {letter: state for state, letter in CELL_LETTERS.items()}
        if not letters or not phase_of(body) or not states.keys() >= set(letters):
            return ()
        if generation_of(body) not in self._cells:
            self._cells = {generation_of(body): _cells_of(body)}
        cells = self._cells[generation_of(body)]
        return tuple(cells_without_tasks(cells, [states[letter] for letter in letters])) if len(cells) == len(letters) else ()

    def _run_number(self, body: Document | None) -> int:
        """Of runs outside a cluster every one counts."""
        return 0 if body is None else int(status_of(body).get("runNumber") or 1)

    # What the cluster shows

    @property
    def _labels(self) -> dict[str, str]:
        return {LABEL_STUDY: self._name}

    def _workflows(self) -> tuple[WorkflowSeen, ...]:
        """The study's own, read page by page: one weighs a hundred times what is kept of it."""
        if self._cluster is None:
            return ()
        return tuple(workflow_seen(body) for page in self._cluster.pages("workflows", self._labels) for body in page.items)

    # What the store shows

    def _read_leases(self, ledger: Ledger, plan: Plan, workflows: tuple[WorkflowSeen, ...], pods: tuple[PodSeen, ...]) -> None:
        """All leases once; again where a task was done, a pod came or went, or somebody is at work."""
        by_digest: dict[str, list[PodSeen]] = {}
        for pod in pods:
            by_digest.setdefault(pod.digest, []).append(pod)
        over = {digest for workflow in workflows if workflow.is_over for digest in workflow.digests}
        depends_on: dict[str, list[Hashable]] = {}
        hot: set[str] = set()
        for digest, task in plan.tasks.items():
            root = work_root(task.kind, task.work)
            seen = [(pod.name, pod.phase, pod.gone_by is None) for pod in by_digest.get(digest[:DIGEST_LABEL_LENGTH], ())]
            depends_on.setdefault(root, []).append((digest in ledger.done, digest in over, *seen))
            could_run = self._cluster is None and ledger.done.issuperset(task.needs)
            if digest not in ledger.done and (seen or could_run):
                hot.add(root)
        ledger.read_leases(self._name, {root: tuple(parts) for root, parts in depends_on.items()}, hot, self._clock())

    def _attempts(self, ledger: Ledger, plan: Plan, leases: Mapping[str, LeaseSeen]) -> dict[str, LeaseBody]:
        """The last lease, as it stands now, of every task that was begun and is not done."""
        begun = [digest for digest in leases if digest not in ledger.done]
        if not begun:
            return {}

        def last(digest: str) -> LeaseBody | None:
            task = plan.tasks[digest]
            own = [body for body in history(ledger.store, work_root(task.kind, task.work)) if body.digest == digest]
            return own[-1] if own else None

        with ThreadPoolExecutor(min(_THREADS, len(begun))) as threads:
            return {digest: body for digest, body in zip(begun, threads.map(last, begun), strict=True) if body is not None}

    def _worded(self, seen: TaskSeen, lease: LeaseSeen | None) -> TaskSeen:
        """A lease without a Workflow of ours: where no cluster was asked, that is a run at work; else somebody else's."""
        if seen.state != TaskState.AWAITED:
            return seen
        if self._cluster is None:
            return TaskSeen(TaskState.RUNNING)
        who = lease.study if lease is not None else ""
        return replace(seen, reason=f"study {who} works on it" if who and who != self._name else seen.reason)


def _cells_of(body: Document) -> tuple[Cell, ...]:
    """The cells of a study's spec; none for one of a format that this version does not read."""
    try:
        return plan_study(read_object(body), {}).cells
    except (StudyMistakes, PlanRefused):
        return ()


def _checked(seen: LeaseSeen, body: LeaseBody | None, now: datetime) -> LeaseSeen:
    """A lease whose process was on this machine and is gone is not live, however young."""
    return replace(seen, is_live=is_live(body, now, here())) if seen.is_live and body is not None else seen


def _work(body: LeaseBody, now: datetime) -> Work:
    """An attempt that has ended can be taken up at its checkpoint, one at work stands where it last told."""
    live = is_live(body, now, here())
    reached = body.tokens if live else max(body.checkpoint or 0, body.from_tokens)
    return Work(reached, max(0, body.tokens - body.from_tokens), (body.renewed - body.start).total_seconds(), live)


def _budget(spec: Mapping[str, Any]) -> str:
    hours = (spec.get("budget") or {}).get("gpuHours")
    return "" if hours is None else str(hours)


def _stall() -> timedelta:
    """After so long without a step a task is shown as stalled; a namespace whose policy says otherwise restarts it earlier or later."""
    return timedelta(minutes=Policy().stall_minutes)
