"""One look at one study: read, decide, apply, write one status, tell.

`loop` calls it for every study that is due, with the snapshot of the round. What is kept between looks is a cache of what can be read
again.
"""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, TaskKind
from orchestrator.controller.applying import Applier
from orchestrator.controller.events import News
from orchestrator.controller.fair_share import Shares
from orchestrator.controller.lease_cache import Ledger
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.planning import Planned, Unplanned, accept, allow, plan, run_number
from orchestrator.controller.snapshot import Snapshot
from orchestrator.errors import AlreadyExists, Conflict, NotThere, StoreUnavailable
from orchestrator.planning.estimate import Price
from orchestrator.reconcile import Decision, Limits, StudyEvent, StudyFacts, Submit, reconcile
from orchestrator.reconcile.observe import Observed, TaskState, time_of, workflow_seen
from orchestrator.reconcile.policy import Policy
from orchestrator.reconcile.status import condition_of
from orchestrator.spec import Study
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.maintenance import Look
from orchestrator.study.opening import inputs
from orchestrator.workflow import WAITER_IMAGE, PodSettings, fingerprint_workflow, store_label

LOG: Final = logging.getLogger(__name__)
Document: TypeAlias = dict[str, Any]

# A study at work is looked at so often even when no watch says anything: progress, cost and stalls make no event
AT_WORK_SECONDS: Final = 10.0
SOON_SECONDS: Final = 1.0
# What looks at files is called so, and then by what it looks at
FILES: Final = "ss-files-"


@dataclass(slots=True)
class _Known:
    """What is kept of a study between looks. `spec_of`: uid and generation that `study` and `planned` were made from."""

    spec_of: tuple[str, int]
    study: Study | Unplanned
    planned: Planned | None = None
    given_up: dict[str, str] = field(default_factory=dict)
    given_up_in: int = 0
    """What this study has seen fail for good in a run, and why: another study's Workflow may take the place of the one that says so."""


class Passes:
    """All studies of a namespace. Not shared between threads.

    `open_store`: URL -> store. `image`: of the pods that look at files, "" for the study's own. `waiter_image`: of those that wait for
    training over several nodes. `clock`: what time it is.
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
        self.looked: Callable[[Planned, Decision], None] = lambda _planned, _decision: None
        """Told after every look at a study that has a plan, for a person who looks on."""
        self._cluster = cluster
        self._open_store = open_store
        self._clock = clock
        self._metrics = metrics
        self._image = image
        self._waiter_image = waiter_image or WAITER_IMAGE
        self._shares = Shares()
        self._news = News(cluster, clock)
        self._known: dict[str, _Known] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._fresh: set[str] = set()
        self._away: dict[str, StoreUnavailable] = {}

    def begin_round(self, names: set[str]) -> None:
        """Forget studies that are gone, and that `done/` was listed: a round lists it once a store, or finds once that it is away."""
        for name in set(self._known) - names:
            del self._known[name]
            self._shares.forget(name)
            self._metrics.forget(name)
        self._news.forget_all_but({known.spec_of[0] for known in self._known.values()})
        self._fresh.clear()
        self._away.clear()

    def awaits(self, name: str, snapshot: Snapshot) -> bool:
        """Whether another study works on a task of this one, or has the place that it waits for."""
        known = self._known.get(name)
        if known is None or known.planned is None:
            return False
        if self._shares.is_first(name):
            return True
        workflows, _ = snapshot.about(name, known.planned.plan.tasks, store_label(known.planned.study.spec.store))
        return any(workflow.study != name and not workflow.is_over for workflow in workflows)

    def look_at(self, name: str, snapshot: Snapshot) -> float | None:
        """Do what the study needs now; in how many seconds to look again, None for when something happens.

        Raises ClusterError, StoreError: look again later, nothing is lost.
        """
        body = snapshot.studies[name]
        if "deletionTimestamp" in body["metadata"]:
            return None
        started = time.perf_counter()
        known = self._known_of(name, body)
        in_line_since = self._shares.step_out(name, self._clock())
        ready = self._planned(known, body)
        after = self._run(known, ready, body, snapshot, in_line_since) if isinstance(ready, Planned) else self._wait(ready, body, snapshot)
        self._metrics.looked_at(time.perf_counter() - started)
        return after

    def _known_of(self, name: str, body: Document) -> _Known:
        metadata = body["metadata"]
        spec_of = metadata["uid"], metadata.get("generation", 1)
        known = self._known.get(name)
        if known is None or known.spec_of != spec_of:
            known = self._known[name] = _Known(spec_of, accept(body))
        return known

    def _planned(self, known: _Known, body: Document) -> Planned | Unplanned:
        if isinstance(known.study, Unplanned):
            return known.study
        forbidden = allow(known.study, self.policy)
        if forbidden is not None:
            return forbidden
        if known.planned is None:
            found = plan(known.study, body["metadata"]["uid"], self._ledger(known.study.spec.store).store)
            if isinstance(found, Unplanned):
                return found
            known.planned = found
        return known.planned

    def _ledger(self, url: str) -> Ledger:
        if url not in self._ledgers:
            self._ledgers[url] = Ledger(self._open_store(url))
        ledger = self._ledgers[url]
        if url in self._away:
            raise self._away[url]
        if url not in self._fresh:
            try:
                ledger.read_done()
            except StoreUnavailable as problem:
                # the client asks for a while before it gives up: not once more for every study
                self._away[url] = problem
                raise
            self._fresh.add(url)
        return ledger

    # A study that has no plan yet

    def _wait(self, why: Unplanned, body: Document, snapshot: Snapshot) -> float | None:
        if isinstance(body["spec"], dict) and body["spec"].get("paused"):
            self._stop_what_runs(body["metadata"]["name"], snapshot)
        self._forget_files(body["metadata"]["name"], _files_name(why), snapshot)
        if why.files is not None and why.study is not None:
            self._send_to_look(why, body, snapshot)
        status = _early_status(body, why, self._clock())
        if why.phase == "Refused":
            self._news.tell(body, [StudyEvent(why.reason, why.message.partition("\n")[0][:512], is_warning=True)])
        self._write(body, status)
        return None if why.phase == "Refused" else AT_WORK_SECONDS

    def _stop_what_runs(self, name: str, snapshot: Snapshot) -> None:
        """What it began under an earlier plan."""
        for workflow in snapshot.own(name):
            if workflow.digests and not workflow.is_over and not workflow.was_stopped:
                self._cluster.stop_workflow(workflow.name)

    def _forget_files(self, name: str, wanted: str, snapshot: Snapshot) -> None:
        """Nobody waits any more for a look at files that the study no longer names; else it would be tried again for days."""
        for workflow in snapshot.own(name):
            if workflow.name.startswith(FILES) and workflow.name != wanted and not workflow.is_over:
                self._cluster.delete("workflows", workflow.name)
                snapshot.remove(workflow.name)

    def _send_to_look(self, why: Unplanned, body: Document, snapshot: Snapshot) -> None:
        assert why.study is not None
        assert why.files is not None
        name = _files_name(why)
        standing = snapshot.workflows.get(name)
        if standing is not None and not standing.is_over:
            return
        if standing is not None:
            self._cluster.delete("workflows", name)
            snapshot.remove(name)
            return
        image = self._image or why.study.spec.execution.image or ""
        settings = self._settings(why.study, body, 1, {})
        workflow = fingerprint_workflow(name, why.key, why.files.sources, why.files.tokenizer, image, settings)
        try:
            snapshot.add(workflow_seen(self._cluster.create("workflows", workflow)))
        except AlreadyExists:
            LOG.info("study %s: the files are being looked at", why.study.name)

    # A study that has

    def _run(self, known: _Known, planned: Planned, body: Document, snapshot: Snapshot, in_line_since: datetime) -> float | None:
        study, now = planned.study, self._clock()
        self._forget_files(study.name, "", snapshot)
        ledger, store = self._ledger(study.spec.store), store_label(study.spec.store)
        depends_on, hot = _dependencies(planned.plan, snapshot, ledger.done, store)
        ledger.read_leases(study.name, {**dict.fromkeys(planned.roots, ()), **depends_on}, hot, now)
        status = body.get("status") or {}
        asked = (body["metadata"].get("annotations") or {}).get(ANNOTATION_RETRY, "")
        facts = StudyFacts(
            name=study.name,
            generation=body["metadata"].get("generation", 1),
            run_number=run_number(status, asked, study.spec.paused, _runs_before(body, ledger, planned)),
            is_paused=study.spec.paused,
            plan_digest=planned.digest,
            plan_version=planned.version,
            store=study.spec.store,
            status=status,
        )
        limits = self._limits(planned, ledger)
        spent = ledger.gpu_seconds(planned.roots, study.name)
        workflows, pods = snapshot.about(study.name, planned.plan.tasks, store)
        others, others_promised = self._shares.of_others(study.name, snapshot.studies)
        if known.given_up_in != facts.run_number:
            known.given_up, known.given_up_in = {}, facts.run_number
        observed = Observed(
            done=ledger.done,
            workflows=workflows,
            pods=pods,
            leases=ledger.leases(planned.plan, now),
            spent=spent,
            others=others,
            others_promised=others_promised,
            others_in_flight=snapshot.in_flight(study.name),
            others_first=self._shares.before(in_line_since),
            given_up=known.given_up,
        )
        decision = reconcile(facts, planned.plan, planned.units, observed, limits, now)
        settings = self._settings(study, body, facts.run_number, inputs(study, planned.plan))
        applier = Applier(self._cluster, ledger, snapshot, planned.plan, settings)
        applier.apply(decision.actions)
        self._shares.settle(study.name, spent, decision.promised)
        known.given_up |= {digest: seen.reason for digest, seen in decision.tasks.items() if seen.state == TaskState.FAILED}
        if decision.queued:
            # whoever got a place goes to the end of the line
            self._shares.stand(study.name, now if any(isinstance(action, Submit) for action in decision.actions) else in_line_since)
        ledger.read_retention(now)
        told = {**_with_refusal(decision.status, applier.refused, facts, now), **_retention(ledger.retention)}
        refusals = [StudyEvent("SubmitRefused", text[:512], is_warning=True) for text in applier.refused]
        # in this order: what is news goes by the status, and whoever dies in between tells it twice and not never
        self._news.tell(body, [*decision.events, *refusals])
        self._write(body, told)
        self._metrics.study(study.name, told, ledger.causes(planned.roots, study.name))
        self.looked(planned, decision)
        return _next_look(told, bool(decision.actions), bool(applier.refused))

    def _limits(self, planned: Planned, ledger: Ledger) -> Limits:
        budget = planned.study.spec.budget.gpu_hours
        return Limits(
            price=Price(self.policy.gpu, self.policy.mfu, None, _measured(planned.plan, ledger)),
            budget_gpu_hours=None if budget is None else float(budget),
            namespace_gpu_hours=self.policy.gpu_hours,
            stall=timedelta(minutes=self.policy.stall_minutes),
            workflows_at_once=self.policy.workflows_at_once,
        )

    def _settings(self, study: Study, body: Document, number: int, found: Mapping[str, list[str]]) -> PodSettings:
        return PodSettings(
            namespace=self._cluster.namespace,
            study=study.name,
            study_uid=body["metadata"]["uid"],
            store=study.spec.store,
            run_number=number,
            execution=self.policy.placed(study.spec.execution),
            inputs=found,
            checkpoint_seconds=self.policy.checkpoint_seconds,
            defaults=self.policy.pod_defaults,
            waiter_image=self._waiter_image,
            shards_claim=self.policy.shards_claim,
        )

    # What is written

    def complain(self, body: Document, problem: Exception) -> None:
        """Say in the status why nothing goes on. Raises ClusterError."""
        before = body.get("status") or {}
        conditions = {condition["type"]: condition for condition in before.get("conditions") or ()}
        known, reason = conditions.get("Degraded"), type(problem).__name__
        if known is not None and (known["status"], known["reason"]) == ("True", reason):
            return
        stamp, generation = f"{self._clock():%Y-%m-%dT%H:%M:%SZ}", body["metadata"].get("generation", 1)
        conditions["Degraded"] = condition_of("Degraded", True, reason, str(problem)[:1024], generation, known, stamp)
        self._write(body, {"phase": "Planning", **before, "conditions": list(conditions.values())})

    def _write(self, body: Document, status: Document) -> None:
        """One write, and only of what has changed. A study that changed meanwhile, or is gone, is looked at again anyway."""
        metadata = body["metadata"]
        if status == body.get("status"):
            return
        try:
            written = self._cluster.patch_status(metadata["name"], status, metadata["resourceVersion"])
        except NotThere:
            return
        except Conflict:
            newest = self._cluster.get("scalingstudies", metadata["name"])
            if newest is None or newest["metadata"].get("generation") != metadata.get("generation"):
                return
            written = self._cluster.patch_status(metadata["name"], status, newest["metadata"]["resourceVersion"])
        body["status"], metadata["resourceVersion"] = status, written["metadata"]["resourceVersion"]


def _files_name(why: Unplanned) -> str:
    """Of the Workflow that looks at files, "" where none has to."""
    return f"{FILES}{why.key.rpartition('/')[2][:20]}" if why.files is not None else ""


def _runs_before(body: Document, ledger: Ledger, planned: Planned) -> int:
    """The highest run number that a study of this name had before this object was created: one that was deleted, or a run elsewhere."""
    if (body.get("status") or {}).get("runNumber"):
        return 0
    return ledger.highest_run(planned.roots, planned.study.name, time_of(body["metadata"]["creationTimestamp"]))


def _dependencies(plan: Plan, snapshot: Snapshot, done: frozenset[str], store: str) -> tuple[dict[str, Hashable], set[str]]:
    """Work root -> what its leases depend on; and the roots at which somebody is at work."""
    depends_on: dict[str, list[Hashable]] = {}
    hot: set[str] = set()
    for digest, task in plan.tasks.items():
        root = work_root(task.kind, task.work)
        pods = snapshot.pods_at(digest, store)
        # nobody takes a lease because a Workflow was submitted: a pod does
        flights = [workflow.name for workflow in snapshot.flights(digest, store) if workflow.is_over or workflow.was_stopped]
        seen = [(pod.name, pod.phase, pod.gone_by is None) for pod in pods]
        depends_on.setdefault(root, []).append((digest in done, *flights, *seen))
        if digest not in done and any(pod.phase == "Running" for pod in pods):
            hot.add(root)
    return {root: tuple(parts) for root, parts in depends_on.items()}, hot


def _measured(plan: Plan, ledger: Ledger) -> dict[str, float]:
    """GPU-seconds a token by size, over all train tasks that are done and ran on GPUs."""
    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for digest, planned in plan.tasks.items():
        if planned.kind == TaskKind.TRAIN and digest in ledger.done and isinstance(planned.task, TrainTask):
            cost_of = ledger.gpu_seconds_of_task(work_root(planned.kind, planned.work), digest)
            if cost_of > 0:
                seconds[planned.size] = seconds.get(planned.size, 0.0) + cost_of
                tokens[planned.size] = tokens.get(planned.size, 0) + planned.task.tokens - planned.from_tokens
    return {size: seconds[size] / tokens[size] for size in seconds if tokens[size] > 0}


def _early_status(body: Document, why: Unplanned, now: datetime) -> Document:
    """The status of a study without a plan; what was said before it was edited stays until there is one."""
    before = body.get("status") or {}
    generation = body["metadata"].get("generation", 1)
    conditions = {condition["type"]: condition for condition in before.get("conditions") or ()}
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    if why.condition == "Planned":
        told = "the study file has no mistakes and is allowed here"
        conditions["Accepted"] = condition_of("Accepted", True, "Valid", told, generation, conditions.get("Accepted"), stamp)
    conditions[why.condition] = condition_of(
        why.condition, False, why.reason, why.message, generation, conditions.get(why.condition), stamp
    )
    return {**before, "observedGeneration": generation, "phase": why.phase, "conditions": list(conditions.values())}


def _with_refusal(status: Document, refused: list[str], facts: StudyFacts, now: datetime) -> Document:
    """The status with what the API would not have, which nothing else shows: a Workflow that was refused does not exist."""
    if not refused:
        return status
    before = next((entry for entry in facts.status.get("conditions") or () if entry["type"] == "Degraded"), None)
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    degraded = condition_of("Degraded", True, "SubmitRefused", refused[0][:1024], facts.generation, before, stamp)
    return {**status, "conditions": [degraded if entry["type"] == "Degraded" else entry for entry in status["conditions"]]}


def _retention(look: Look | None) -> Document:
    """What the last clearing of the store found, for the status."""
    if look is None:
        return {}
    told = {"lookedAt": f"{look.at:%Y-%m-%dT%H:%M:%SZ}", "objects": look.count, "bytes": look.size, "removed": look.removed}
    return {"retention": told}


def _next_look(status: Mapping[str, Any], acted: bool, was_refused: bool) -> float | None:
    if acted and not was_refused:
        return SOON_SECONDS
    return None if status["phase"] in ("Succeeded", "Failed", "Paused") else AT_WORK_SECONDS
