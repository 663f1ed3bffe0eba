"""Find the logs of a study's tasks: in their pods while these exist, afterwards in the attempts' folders in the store.

Called by `cli.logs`. Users select a cell, a digest, a pod, or nothing for all running tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.vocabulary import DIGEST_LABEL_LENGTH
from orchestrator.errors import KeyMissing, NotFound, PlanRefused, Refused
from orchestrator.monitor.study_view import StudyView
from orchestrator.planning.explain import find_cell
from orchestrator.reconcile.observed import TERMINAL, ObservedPod
from orchestrator.reconcile.task_states import TaskState
from orchestrator.store import Store
from orchestrator.store.addresses import LOG, attempt_key, work_root
from orchestrator.store.leases import LeaseBody, history

# A shorter prefix of a digest could be the name of a cell
SHORTEST_DIGEST: Final = 6

_WAITS: Final = "waiting to start"
"""Part of the API's error for a pod whose container has not started."""


@dataclass(frozen=True, slots=True)
class LogSelection:
    """The selected tasks of the plan, or pods by name if a pod was named or there is no plan. `title`: for display."""

    title: str
    tasks: tuple[PlannedTask, ...] = ()
    pods: tuple[str, ...] = ()

    def includes(self, pod: ObservedPod) -> bool:
        """Whether a pod runs, or ran, one of the selected tasks."""
        return pod.name in self.pods or any(pod.digest == task.digest[:DIGEST_LABEL_LENGTH] for task in self.tasks)


@dataclass(frozen=True, slots=True)
class LogSource:
    """One log. `lines` raises only ScalingStudyError."""

    title: str
    lines: Callable[[], Iterator[str]]


def select_logs(view: StudyView, what: str) -> LogSelection:
    """Return the selection that `what` names. Raises PlanRefused listing the alternatives."""
    plan = view.plan
    if not what:
        if plan is None:
            return LogSelection(view.name, (), tuple(pod.name for pod in view.pods))
        return LogSelection(view.name, tuple(work.task for work in view.active_tasks))
    if any(pod.name == what for pod in view.pods):
        return LogSelection(what, (), (what,))
    digest = what.lower()
    is_digest = len(digest) >= SHORTEST_DIGEST and set(digest) <= set("0123456789abcdef")
    if plan is None:
        pods = tuple(pod.name for pod in view.pods if is_digest and pod.digest.startswith(digest[:DIGEST_LABEL_LENGTH]))
        if pods:
            return LogSelection(what, (), pods)
        raise PlanRefused(f"{what!r} is not a pod of {view.name}; its cells and tasks are unknown here: {view.trouble}")
    found = tuple(task for key, task in plan.tasks.items() if is_digest and key.startswith(digest))
    if found:
        return LogSelection(what, found)
    return LogSelection(what, tuple(plan.tasks[task] for task in find_cell(plan, what).tasks))


def find_logs(view: StudyView, asked: LogSelection, cluster: Cluster | None, store: Store | None) -> list[LogSource]:
    """Return the logs of a selection: of each existing pod, or of the last attempt with a log in the store if all pods have ended.

    The store is preferred for ended pods, because a node may remove the log of an ended pod before the pod itself.
    """
    found: list[LogSource] = []
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


def _of_pod(cluster: Cluster, pod: ObservedPod, task: str) -> LogSource:
    def lines() -> Iterator[str]:
        try:
            yield from cluster.logs(pod.name)
        except NotFound:
            yield "(the pod was just deleted)"
        except Refused as problem:
            if _WAITS not in str(problem):
                raise
            yield f"(it has not started{f': {pod.reason}' if pod.reason else ''})"

    return LogSource(f"{task}pod {pod.name} ({pod.phase})", lines)


def _in_store(store: Store, task: PlannedTask) -> LogSource | None:
    """The log of the task's last attempt with a non-empty log in the store."""
    for lease in reversed(attempts_of(store, task)):
        key = attempt_key(work_root(task.kind, task.work), lease.number, LOG)
        try:
            text = store.objects.get(key).decode(errors="replace")
        except KeyMissing:
            continue
        if not text.strip():  # the attempt found the task already done
            continue
        return LogSource(f"{task.kind} {task.label}, attempt {lease.number}, {key} in {store.url}", _lines_of(text))
    return None


def _lines_of(text: str) -> Callable[[], Iterator[str]]:
    return lambda: iter(text.splitlines())


def attempts_of(store: Store, task: PlannedTask) -> list[LeaseBody]:
    """Return the leases of all attempts at a task, in order."""
    return [body for body in history(store, work_root(task.kind, task.work)) if body.digest == task.digest]


def explain_missing_logs(view: StudyView, asked: LogSelection, store: Store | None) -> list[str]:
    """Return lines that explain why a selection has no logs, with the outcome of its attempts."""
    if not asked.tasks:
        return [f"{asked.title}: no task is running ({view.phase}). Name a cell, a digest or a pod to see its logs."]
    started = [] if store is None else [(task, lease) for task in asked.tasks for lease in attempts_of(store, task)]
    if not started:
        return [f"{asked.title} has not started:", *(f"  {task.kind} {task.label}: {_state_text(view, task)}" for task in asked.tasks)]
    lines = [f"no log of {asked.title} is available: pods are deleted a minute after they end, and the store has no log. Its attempts:"]
    return [*lines, *(f"  {task.kind} {task.label}, attempt {lease.number} on {lease.host}: {_end(lease)}" for task, lease in started)]


def _state_text(view: StudyView, task: PlannedTask) -> str:
    seen = view.tasks[task.digest]
    word = "waiting for the tasks it needs" if seen.state == TaskState.WAITING else str(seen.state)
    return f"{word}{f', {seen.reason}' if seen.reason else ''}"


def _end(lease: LeaseBody) -> str:
    if lease.ended is None:
        return f"started {lease.start:%Y-%m-%d %H:%M:%S} UTC and has not recorded its end"
    known = lease.ended.code in list(ExitCode)
    code = ExitCode(lease.ended.code).name.lower() if known else f"exit code {lease.ended.code}"
    return f"{code}{f': {lease.ended.message}' if lease.ended.message else ''}"


def is_final(view: StudyView, tasks: Sequence[PlannedTask]) -> bool:
    """Whether all of these tasks are done, failed or blocked, so that no further logs will appear."""
    final = (TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED)
    return bool(tasks) and all(view.tasks[task.digest].state in final for task in tasks)
