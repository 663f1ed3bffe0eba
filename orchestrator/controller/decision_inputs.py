"""Inputs of a decision that do not depend on other studies: leases, facts and limits of one study.

`study_reconciler` calls these functions before `reconcile`.
"""

from datetime import datetime, timedelta
from typing import Any, TypeAlias

from orchestrator.cluster.study_object import retry_requested
from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, TaskKind
from orchestrator.controller.lease_cache import LeaseCache, TaskActivity
from orchestrator.controller.planning import Planned, run_number
from orchestrator.controller.snapshot import Snapshot
from orchestrator.planning.estimate import Price
from orchestrator.reconcile import Limits, StudyFacts
from orchestrator.reconcile.observed import parse_time
from orchestrator.reconcile.policy import Policy
from orchestrator.store.addresses import work_root
from orchestrator.workflow import store_label

Document: TypeAlias = dict[str, Any]


def read_leases(planned: Planned, cache: LeaseCache, snapshot: Snapshot, now: datetime) -> None:
    """Read the leases of the study's tasks that may have changed. Raises StoreUnavailable."""
    store = store_label(planned.study.spec.store)

    def activity(digest: str) -> TaskActivity:
        pods = snapshot.pods_of_task(digest, store)
        # a submitted Workflow takes no lease, only its pods do
        workflows = snapshot.workflows_of_task(digest, store)
        ended = [workflow.name for workflow in workflows if workflow.is_over or workflow.was_stopped]
        attempts = sum(workflow.ended_attempts.get(digest[:DIGEST_LABEL_LENGTH], 0) for workflow in workflows)
        return TaskActivity(pods, ended, any(pod.phase == "Running" for pod in pods), attempts)

    cache.read_leases_of_plan(planned.study.name, planned.plan, activity, now, planned.roots)


def study_facts(planned: Planned, cache: LeaseCache, body: Document) -> StudyFacts:
    """Return what the object and its status say about the study, and its run number."""
    study, status = planned.study, body.get("status") or {}
    return StudyFacts(
        name=study.name,
        generation=body["metadata"].get("generation", 1),
        run_number=run_number(status, retry_requested(body), study.spec.paused, _earlier_run_number(body, cache, planned)),
        is_paused=study.spec.paused,
        plan_digest=planned.digest,
        plan_version=planned.version,
        store=study.spec.store,
        status=status,
    )


def study_limits(planned: Planned, cache: LeaseCache, policy: Policy) -> Limits:
    """Return the limits from the study's budget and the namespace's policy."""
    budget = planned.study.spec.budget.gpu_hours
    return Limits(
        price=Price(policy.gpu, policy.mfu, None, _gpu_seconds_per_token(planned.plan, cache)),
        budget_gpu_hours=None if budget is None else float(budget),
        namespace_gpu_hours=policy.gpu_hours,
        stall=timedelta(minutes=policy.stall_minutes),
        workflows_at_once=policy.workflows_at_once,
    )


def _earlier_run_number(body: Document, cache: LeaseCache, planned: Planned) -> int:
    """Return the highest run number that a deleted study of this name, or a run outside this cluster, used before."""
    if (body.get("status") or {}).get("runNumber"):
        return 0
    return cache.highest_run(planned.roots, planned.study.name, parse_time(body["metadata"]["creationTimestamp"]))


def _gpu_seconds_per_token(plan: Plan, cache: LeaseCache) -> dict[str, float]:
    """Return the measured GPU-seconds per token by size, over all completed train tasks that ran on GPUs."""
    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for digest, planned in plan.tasks.items():
        if planned.kind == TaskKind.TRAIN and digest in cache.done and isinstance(planned.task, TrainTask):
            cost = cache.gpu_seconds_of_task(work_root(planned.kind, planned.work), digest)
            if cost > 0:
                seconds[planned.size] = seconds.get(planned.size, 0.0) + cost
                tokens[planned.size] = tokens.get(planned.size, 0) + planned.task.tokens - planned.from_tokens
    return {size: seconds[size] / tokens[size] for size in seconds if tokens[size] > 0}
