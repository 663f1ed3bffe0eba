"""Group the tasks of a plan into units, one Argo Workflow each.

A unit is an unbranched chain of train tasks with the evaluations of their checkpoints, so that admitting, stopping or editing affects a
single chain. `reconcile` decides about units, `build` renders one as an Argo Workflow.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind

# Argo 4's CRDs reject lists of more than 200 tasks or templates; longer chains are split
MAX_TASKS: Final = 150


@dataclass(frozen=True, slots=True)
class Unit:
    """The tasks of one Workflow, in dependency order.

    `needs`: digests of tasks outside the unit that must be done before it starts. `label`: the label of its first task, for display.
    """

    kind: TaskKind
    tasks: tuple[str, ...]
    needs: tuple[str, ...]
    size: str
    label: str


def units(plan: Plan) -> tuple[Unit, ...]:
    """Return the units of a plan in dependency order. Every task is in exactly one unit."""
    prepares = [_unit(plan, (digest,)) for digest, task in plan.tasks.items() if task.kind == TaskKind.PREPARE]
    evaluations = _evaluations_by_train_task(plan)
    trains: list[Unit] = []
    for chain in _chains(plan):
        tasks = [*chain, *(evaluation for train in chain for evaluation in evaluations.get(train, ()))]
        trains += [_unit(plan, tasks[start : start + MAX_TASKS]) for start in range(0, len(tasks), MAX_TASKS)]
    return (*prepares, *trains)


def remaining(plan: Plan, unit: Unit, excluded: Set[str]) -> Unit | None:
    """Return the unit without the excluded tasks and with `needs` updated, or None if no task is left."""
    left = tuple(digest for digest in unit.tasks if digest not in excluded)
    if len(left) == len(unit.tasks):
        return unit
    return _unit(plan, left) if left else None


def workflow_name(unit: Unit, run_number: int, store: str = "") -> str:
    """Return the name of a unit's Workflow, unique per tasks, run number and store address.

    An HTTP 409 for this name therefore means that the unit was already submitted.
    """
    text = "\n".join((*unit.tasks, str(run_number), *([store] if store else [])))
    return f"ss-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def store_label(address: str) -> str:
    """Return a hash of a store's address that fits in a label value, "" for no address."""
    return hashlib.sha256(address.encode()).hexdigest()[:12] if address else ""


def _unit(plan: Plan, digests: Sequence[str]) -> Unit:
    in_unit = set(digests)
    first = plan.tasks[digests[0]]
    needs = dict.fromkeys(need for digest in digests for need in plan.tasks[digest].needs if need not in in_unit)
    return Unit(first.kind, tuple(digests), tuple(needs), first.size, first.label)


def _evaluations_by_train_task(plan: Plan) -> Mapping[str, list[str]]:
    """Group evaluate tasks by the train task whose final checkpoint they score."""
    found: dict[str, list[str]] = defaultdict(list)
    for digest, task in plan.tasks.items():
        if task.kind == TaskKind.EVALUATE:
            found[_train_predecessor(plan, task)].append(digest)
    return found


def _chains(plan: Plan) -> list[list[str]]:
    """Return the maximal unbranched chains of train tasks."""
    children: dict[str, list[str]] = defaultdict(list)
    for digest, task in plan.tasks.items():
        if task.kind == TaskKind.TRAIN:
            children[_train_predecessor(plan, task)].append(digest)
    chains: list[list[str]] = []
    waiting = list(reversed(children[""]))
    while waiting:
        chain = [waiting.pop()]
        while len(successors := children[chain[-1]]) == 1:
            chain.append(successors[0])
        waiting += reversed(children[chain[-1]])
        chains.append(chain)
    return chains


def _train_predecessor(plan: Plan, task: PlannedTask) -> str:
    """Return the train task that a task continues, "" if there is none."""
    return next((need for need in task.needs if plan.tasks[need].kind == TaskKind.TRAIN), "")
