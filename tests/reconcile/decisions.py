"""Builders for reconcile tests: a plan of four cells, and the Workflows, pods and leases of its units."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, TaskKind
from orchestrator.planning import plan_study
from orchestrator.planning.estimate import Price, cost
from orchestrator.reconcile import Decision, Limits, StudyFacts, Submit, reconcile
from orchestrator.reconcile.observed import Observation, ObservedLease, ObservedPod, ObservedWorkflow
from orchestrator.spec import Study, StudySpec
from orchestrator.workflow import Unit, units, workflow_name
from tests.study_spec import study_spec

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PRICE = Price("h100", 0.5, None, {})
LIMITS = Limits(PRICE)


@cache
def plan_at(percents: tuple[int, ...] = (0, 50)) -> Plan:
    document = study_spec("store", ["0.03M", "0.09M"])
    document["grid"]["codePercent"] = list(percents)
    return plan_study(Study("mine", StudySpec.model_validate(document), "s.yaml", document), {})


PLAN = plan_at()
UNITS = units(PLAN)
FACTS = StudyFacts("mine", 3, 1, False, "d" * 64, 1)
PREPARED = frozenset(digest for digest, task in PLAN.tasks.items() if task.kind == TaskKind.PREPARE)


def decided(observed: Observation, facts: StudyFacts = FACTS, limits: Limits = LIMITS, plan: Plan = PLAN, now: datetime = NOW) -> Decision:
    return reconcile(facts, plan, units(plan), observed, limits, now)


def submitted(decision: Decision) -> list[Unit]:
    return [action.unit for action in decision.actions if isinstance(action, Submit)]


def trunk(cell: str = "scratch/0.09M/c50/s1") -> Unit:
    """Return the unit of a cell's trunk up to the branch."""
    digest = PLAN.cell(cell).stages[0].trains[0]
    return next(unit for unit in UNITS if digest in unit.tasks)


def workflow(unit: Unit, study: str = "mine", phase: str = "Running", **changes: Any) -> ObservedWorkflow:
    return replace(ObservedWorkflow(workflow_name(unit, 1), study, 1, unit.tasks, phase), **changes)


def pod(unit: Unit, phase: str = "Running", **changes: Any) -> ObservedPod:
    name = workflow_name(unit, 1)
    return replace(ObservedPod(f"{name}-pod", name, unit.tasks[0][:DIGEST_LABEL_LENGTH], phase), **changes)


def lease(code: int | None = None, *, live: bool = True, run: int = 1, minutes: int = 0, seconds: float = 0.0) -> ObservedLease:
    return ObservedLease(
        "mine", run, live and code is None, NOW - timedelta(minutes=minutes), code, "it said no" if code == 78 else "", seconds
    )


def condition(decision: Decision, kind: str) -> Mapping[str, str]:
    found: Mapping[str, str] = next(entry for entry in decision.status["conditions"] if entry["type"] == kind)
    return found


def estimate_of(unit: Unit) -> float:
    return sum(cost(PLAN, PLAN.tasks[digest], PRICE).gpu_seconds for digest in unit.tasks)
