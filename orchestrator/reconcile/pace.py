"""How long what is left takes as it goes now, told from the leases of what is done and at work."""

from collections import defaultdict
from collections.abc import Mapping

from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.words import TaskKind
from orchestrator.estimate import Price, cost
from orchestrator.observe import LeaseSeen, TaskSeen, TaskState

_NEVER_COMES = (TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED)


def seconds_left(plan: Plan, tasks: Mapping[str, TaskSeen], leases: Mapping[str, LeaseSeen], price: Price) -> float | None:
    """Seconds that the tasks left take one after the other, None while none has trained a token yet.

    A size that nobody has trained goes as fast in FLOPs as all others together; other kinds take as long as those of their kind did.
    """
    seconds: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    flops = 0.0
    others: dict[TaskKind, list[float]] = defaultdict(list)
    for digest, lease in leases.items():
        task = plan.tasks[digest]
        if isinstance(task.task, TrainTask) and lease.trained > 0:
            seconds[task.size] += lease.seconds
            tokens[task.size] += lease.trained
            flops += _flops_a_token(plan, digest, price) * lease.trained
        elif tasks[digest].state == TaskState.DONE:
            others[task.kind].append(lease.seconds)
    if not flops:
        return None
    a_flop = sum(seconds.values()) / flops
    left = 0.0
    for digest, seen in tasks.items():
        task = plan.tasks[digest]
        if seen.state in _NEVER_COMES:
            continue
        if isinstance(task.task, TrainTask):
            trained = leases[digest].trained if digest in leases else 0
            size = task.size
            a_token = seconds[size] / tokens[size] if size in tokens else a_flop * _flops_a_token(plan, digest, price)
            left += max(0, task.task.tokens - task.from_tokens - trained) * a_token
        elif known := others[task.kind]:
            left += sum(known) / len(known)
    return left


def _flops_a_token(plan: Plan, digest: str, price: Price) -> float:
    found = cost(plan, plan.tasks[digest], price)
    return found.flops / found.tokens if found.tokens else 0.0
