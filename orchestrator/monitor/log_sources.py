"""Where the logs of a study's tasks are: in their pods while those are there, after that with the attempts in the store.

`cli.logs` prints what this finds. A person names what they want: a cell, a digest, a pod, or nothing for all that is at work.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH, ExitCode
from orchestrator.errors import KeyMissing, NotThere, PlanRefused, Refused
from orchestrator.monitor.study_view import StudyView
from orchestrator.planning.explain import find_cell
from orchestrator.reconcile.observe import TERMINAL, PodSeen, TaskState
from orchestrator.store import Store
from orchestrator.store.addresses import LOG, attempt_key, work_root
from orchestrator.store.leases import LeaseBody, history

# Fewer digits of a digest could be a cell's name
SHORTEST_DIGEST: Final = 6

_WAITS: Final = "waiting to start"
"""What the API says of a pod whose container has not begun."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, `title` for people: tasks of the plan, or pods by name where a pod was named or there is no plan."""

    title: str
    tasks: tuple[PlannedTask, ...] = ()
    pods: tuple[str, ...] = ()

    def takes(self, pod: PodSeen) -> bool:
        """Whether a pod works, or worked, on it."""
        return pod.name in self.pods or any(pod.digest == task.digest[:DIGEST_LABEL_LENGTH] for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Piece:
    """One log. `lines` raises nothing that a person could not read."""

    title: str
    lines: Callable[[], Iterator[str]]


def wanted(view: StudyView, what: str) -> Wanted:
    """What a person means by `what`. Raises PlanRefused, whose message says what there is."""
    plan = view.plan
    if not what:
        if plan is None:
            return Wanted(view.name, (), tuple(pod.name for pod in view.pods))
        return Wanted(view.name, tuple(work.task for work in view.at_work))
    if any(pod.name == what for pod in view.pods):
        return Wanted(what, (), (what,))
    digest = what.lower()
    is_digest = len(digest) >= SHORTEST_DIGEST and set(digest) <= set("0123456789abcdef")
    if plan is None:
        pods = tuple(pod.name for pod in view.pods if is_digest and pod.digest.startswith(digest[:DIGEST_LABEL_LENGTH]))
        if pods:
            return Wanted(what, (), pods)
        raise PlanRefused(f"{what!r} is no pod of {view.name}; which cells and tasks it has is not known here: {view.trouble}")
    found = tuple(task for key, task in plan.tasks.items() if is_digest and key.startswith(digest))
    if found:
        return Wanted(what, found)
    return Wanted(what, tuple(plan.tasks[task] for task in find_cell(plan, what).tasks))


def pieces(view: StudyView, asked: Wanted, cluster: Cluster | None, store: Store | None) -> list[Piece]:
    """The logs of what was asked for: of every pod that is there, or of the last attempt that left one in the store when all have ended.

    A node moves the log of a pod that has ended away before the pod itself goes; the store's is whole.
    """
    found: list[Piece] = []
    if cluster is not None:
        found += [_of_pod(cluster, pod, "") for pod in view.pods if pod.name in asked.pods]
    for task in asked.tasks:
        pods = [pod for pod in view.pods if pod.digest == task.digest[:DIGEST_LABEL_LENGTH]]
        have_ended = all(pod.phase in TERMINAL for pod in pods)
        if store is not None and have_ended and (kept := _in_store(store, task)):
            found.append(kept)
        elif cluster is not None:
            found += [_of_pod(cluster, pod, f"{task.kind} {task.label}, ") for pod in pods]
    return found


def _of_pod(cluster: Cluster, pod: PodSeen, task: str) -> Piece:
    def lines() -> Iterator[str]:
        try:
            yield from cluster.logs(pod.name)
        except NotThere:
            yield "(the pod has just been cleared away)"
        except Refused as problem:
            if _WAITS not in str(problem):
                raise
            yield f"(it has not begun{f': {pod.reason}' if pod.reason else ''})"

    return Piece(f"{task}pod {pod.name} ({pod.phase})", lines)


def _in_store(store: Store, task: PlannedTask) -> Piece | None:
    """The log of the task's last attempt that left one with words in it."""
    for lease in reversed(attempts_at(store, task)):
        key = attempt_key(work_root(task.kind, task.work), lease.number, LOG)
        try:
            text = store.objects.get(key).decode(errors="replace")
        except KeyMissing:
            continue
        if not text.strip():  # it found the task done by another attempt
            continue
        return Piece(f"{task.kind} {task.label}, attempt {lease.number}, {key} in {store.url}", _lines_of(text))
    return None


def _lines_of(text: str) -> Callable[[], Iterator[str]]:
    return lambda: iter(text.splitlines())


def attempts_at(store: Store, task: PlannedTask) -> list[LeaseBody]:
    """Every attempt at a task, in order."""
    return [body for body in history(store, work_root(task.kind, task.work)) if body.digest == task.digest]


def why_none(view: StudyView, asked: Wanted, store: Store | None) -> list[str]:
    """Why there is no log of what was asked for, and what its attempts said at their end instead."""
    if not asked.tasks:
        return [f"{asked.title}: nobody works on it now ({view.phase}). Name a cell, a digest or a pod to see what it has said."]
    begun = [] if store is None else [(task, lease) for task in asked.tasks for lease in attempts_at(store, task)]
    if not begun:
        return [f"{asked.title} has not begun:", *(f"  {task.kind} {task.label}: {_standing(view, task)}" for task in asked.tasks)]
    lines = [f"no log of {asked.title} is left: pods go a minute after they end, and the store has none. Its attempts:"]
    return [*lines, *(f"  {task.kind} {task.label}, attempt {lease.number} on {lease.host}: {_end(lease)}" for task, lease in begun)]


def _standing(view: StudyView, task: PlannedTask) -> str:
    seen = view.tasks[task.digest]
    word = "waits for what it needs" if seen.state == TaskState.WAITING else str(seen.state)
    return f"{word}{f', {seen.reason}' if seen.reason else ''}"


def _end(lease: LeaseBody) -> str:
    if lease.ended is None:
        return f"began {lease.start:%Y-%m-%d %H:%M:%S} UTC and has not said how it ended"
    known = lease.ended.code in list(ExitCode)
    code = ExitCode(lease.ended.code).name.lower() if known else f"exit code {lease.ended.code}"
    return f"{code}{f': {lease.ended.message}' if lease.ended.message else ''}"


def is_settled(view: StudyView, tasks: Sequence[PlannedTask]) -> bool:
    """Whether nothing will be said about these tasks any more, as things stand."""
    settled = (TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED)
    return bool(tasks) and all(view.tasks[task.digest].state in settled for task in tasks)
