"""How fast training goes and how long what is left takes, told from the attempts at what is done and at work.

Work is counted in FLOPs, so that a token of a large model counts for more.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.planning.estimate import Price, costs
from orchestrator.reconcile.observe import LeaseSeen, TaskSeen, TaskState

_NOTHING_LEFT = (TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED)


def speeds(plan: Plan, flops: Mapping[str, float], attempts: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    """FLOPs a second of an attempt by size, also of those that have ended; a size that nobody has measured goes by all that were.

    `flops`: of each whole task. `attempts`: digest, the tokens that were trained, in how many seconds.
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


def seconds_left(plan: Plan, tasks: Mapping[str, TaskSeen], leases: Mapping[str, LeaseSeen], price: Price) -> float | None:
    """Seconds that the tasks left take one after the other, None while none has trained a token.

    Other kinds take as long as those of their kind did, nothing while none is done.
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
            whole, lease_of = planned.task.tokens - planned.from_tokens, leases.get(digest)
            missing = whole if lease_of is None else min(whole, max(0, planned.task.tokens - lease_of.reached))
            left += flops[digest] * missing / whole / speed[planned.size]
        else:
            left += mean.get(planned.kind, 0.0)
    return left
