"""Cuts a plan into units: what one Workflow does.

A unit is one unbranched run of train tasks with the evaluations of their states, so that admission, stop and edit touch no more than one
line of work. `reconcile` decides over units, `build` turns one into an Argo Workflow.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind

# Argo 4's CRDs refuse more than 200 tasks or templates in a list; what is over goes to a unit of its own
MOST_TASKS: Final = 150


@dataclass(frozen=True, slots=True)
class Unit:
    """Tasks that one Workflow does, in an order in which each comes after what it needs.

    `needs`: digests outside the unit that must be done before it may start. `label`: of its first task, for people.
    """

    kind: TaskKind
    tasks: tuple[str, ...]
    needs: tuple[str, ...]
    size: str
    label: str


def units(plan: Plan) -> tuple[Unit, ...]:
    """Every task of the plan in exactly one unit, in an order in which no unit needs a later one."""
    prepares = [_unit(plan, (digest,)) for digest, task in plan.tasks.items() if task.kind == TaskKind.PREPARE]
    evaluations = _by_state(plan)
    trains: list[Unit] = []
    for run in _runs(plan):
        tasks = [*run, *(evaluation for train in run for evaluation in evaluations.get(train, ()))]
        trains += [_unit(plan, tasks[start : start + MOST_TASKS]) for start in range(0, len(tasks), MOST_TASKS)]
    return (*prepares, *trains)


def remaining(plan: Plan, unit: Unit, excluded: Set[str]) -> Unit | None:
    """The unit without tasks that are done or in work elsewhere; None when nothing is left. What it waits for is looked up anew."""
    left = tuple(digest for digest in unit.tasks if digest not in excluded)
    if len(left) == len(unit.tasks):
        return unit
    return _unit(plan, left) if left else None


def workflow_name(unit: Unit, run_number: int, store: str = "") -> str:
    """Two units have one name only if they do the same tasks in the same run and store: a 409 then means that somebody submitted it before.

    `store`: its address.
    """
    text = "\n".join((*unit.tasks, str(run_number), *([store] if store else [])))
    return f"ss-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def store_label(address: str) -> str:
    """What a label can hold of a store's address; "" for none."""
    return hashlib.sha256(address.encode()).hexdigest()[:12] if address else ""


def _unit(plan: Plan, digests: Sequence[str]) -> Unit:
    inside = set(digests)
    first = plan.tasks[digests[0]]
    needs = dict.fromkeys(need for digest in digests for need in plan.tasks[digest].needs if need not in inside)
    return Unit(first.kind, tuple(digests), tuple(needs), first.size, first.label)


def _by_state(plan: Plan) -> Mapping[str, list[str]]:
    """Evaluate tasks by the train task whose end they score."""
    found: dict[str, list[str]] = defaultdict(list)
    for digest, task in plan.tasks.items():
        if task.kind == TaskKind.EVALUATE:
            found[_train_need(plan, task)].append(digest)
    return found


def _runs(plan: Plan) -> list[list[str]]:
    """Train tasks as maximal runs in which each is the only one that goes on from the one before."""
    children: dict[str, list[str]] = defaultdict(list)
    for digest, task in plan.tasks.items():
        if task.kind == TaskKind.TRAIN:
            children[_train_need(plan, task)].append(digest)
    runs: list[list[str]] = []
    waiting = list(reversed(children[""]))
    while waiting:
        run = [waiting.pop()]
        while len(next_ones := children[run[-1]]) == 1:
            run.append(next_ones[0])
        waiting += reversed(children[run[-1]])
        runs.append(run)
    return runs


def _train_need(plan: Plan, task: PlannedTask) -> str:
    """The train task that a task goes on from, "" where it starts from weights."""
    return next((need for need in task.needs if plan.tasks[need].kind == TaskKind.TRAIN), "")
