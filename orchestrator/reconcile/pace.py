"""Training speed and remaining time, estimated from finished and running attempts.

`decide` calls it for the ETA in a study's status, `monitor.grid_table` for the grid. Work is counted in FLOPs, because a token costs more
on a larger model. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning.estimate import Price, costs
from orchestrator.reconcile.observed import ObservedLease
from orchestrator.reconcile.task_states import TaskState, TaskStatus

_NOTHING_LEFT = (TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED)


def remaining_fraction(planned: PlannedTask, reached: int | None) -> float:
    """Return the fraction of a task that is left to do, 0 to 1; always 1 for tasks other than training.

    `reached`: position on the trajectory in tokens, None if the task was never started.
    """
    if reached is None or not isinstance(planned.task, TrainTask):
        return 1.0
    whole = planned.task.tokens - planned.from_tokens
    return min(whole, max(0, planned.task.tokens - reached)) / whole if whole > 0 else 1.0


def speeds(plan: Plan, flops: Mapping[str, float], attempts: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    """Return the mean speed of an attempt in FLOP/s by size; sizes without measurements get the mean over all measured sizes.

    `flops`: of each whole task. `attempts`: digest, tokens trained, seconds taken. Empty if nothing was measured.
    """
    made: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    for digest, tokens, took in attempts:
        planned = plan.tasks[digest]
        if tokens > 0 and took > 0 and isinstance(planned.task, TrainTask):
            made[planned.size] += flops[digest] / (planned.task.tokens - planned.from_tokens) * tokens
            seconds[planned.size] += took
    if not made:
        return {}
    mean = sum(made.values()) / sum(seconds.values())
    return {size: made[size] / seconds[size] if size in made else mean for size in plan.shapes}


def seconds_left(plan: Plan, tasks: Mapping[str, TaskStatus], leases: Mapping[str, ObservedLease], price: Price) -> float | None:
    """Return the seconds that the remaining tasks take one after the other; None before any token was trained.

    Tasks other than training take the mean time of the finished tasks of their kind, 0 if none is finished.
    """
    if not any(lease.trained for lease in leases.values()):
        return None
    flops = {digest: found.flops for digest, found in costs(plan, price).items()}
    speed = speeds(plan, flops, ((digest, lease.trained, lease.seconds) for digest, lease in leases.items()))
    if not speed:
        return None
    took: dict[TaskKind, list[float]] = defaultdict(list)
    for digest, lease in leases.items():
        if tasks[digest].state == TaskState.DONE:
            took[plan.tasks[digest].kind].append(lease.seconds)
    mean = {kind: sum(each) / len(each) for kind, each in took.items()}
    left = 0.0
    for digest, planned in plan.tasks.items():
        if tasks[digest].state in _NOTHING_LEFT:
            continue
        if isinstance(planned.task, TrainTask):
            last = leases.get(digest)
            left += flops[digest] * remaining_fraction(planned, last.reached if last else None) / speed[planned.size]
        else:
            left += mean.get(planned.kind, 0.0)
    return left
