"""What a task reads of other tasks, and what becomes of it when it is damaged.

`attempt` asks after a failure that bytes explain: whatever this task needs and does not hold what its record or pointer promised is
moved aside, so that it counts as not done and is done again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.contract.tasks import EvaluateTask, FromState, PrepareTask, Task, TokenizerTask, TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import Damaged, KeyMissing, LeaseHeld
from orchestrator.store import addresses, artifacts, checkpoints, leases, records
from orchestrator.store import quarantine as aside
from orchestrator.store.leases import Holder
from trainer.context import Context


@dataclass(frozen=True, slots=True)
class Need:
    """A prepared task (`tokens` is None) or the state of a trajectory that a task reads."""

    digest: str
    tokens: int | None = None

    @property
    def work_root(self) -> str:
        return addresses.work_root(TaskKind.PREPARE if self.tokens is None else TaskKind.TRAIN, self.digest)

    def __str__(self) -> str:
        return f"task {self.digest[:12]}" if self.tokens is None else f"trajectory {self.digest[:12]} at {self.tokens} tokens"


def needs(task: Task) -> Iterator[Need]:
    """Everything of other tasks that `task` reads."""
    if isinstance(task, TrainTask):
        yield from (Need(digest) for digest, _ in task.trajectory.shares)
        if isinstance(task.trajectory.start, FromState):
            yield Need(task.trajectory.start.trajectory, task.trajectory.start.tokens)
    elif isinstance(task, EvaluateTask):
        yield Need(task.trajectory, task.tokens)
        if "source" in task.items:
            yield Need(task.items["source"])
    elif isinstance(task, PrepareTask) and not task.tokenizer.startswith("file:"):
        yield Need(task.tokenizer)
    else:
        assert isinstance(task, (PrepareTask, TokenizerTask))


def move_damaged_aside(context: Context, holder: Holder) -> list[str]:
    """Check all that the task needs; what is damaged is moved aside under its own lease. Names what was."""
    moved = []
    for need in needs(context.task):
        why = _damage(context, need)
        if why is not None and _move(context, need, holder, why):
            moved.append(str(need))
    return moved


def undone(context: Context) -> list[str]:
    """What the task needs and is not done, or not any more. Names it."""
    return [str(need) for need in needs(context.task) if not _is_done(context, need)]


def _is_done(context: Context, need: Need) -> bool:
    digest = need.digest if need.tokens is None else aside.task_that_ends_at(context.store, need.work_root, need.tokens)
    try:
        return digest is not None and records.find_record(context.store, digest) is not None
    except Damaged:
        return False


def _damage(context: Context, need: Need) -> str | None:
    """Why a need that is recorded as done is not whole; None when it is whole, or not done."""
    try:
        if need.tokens is not None:
            checkpoints.at(context.store, need.work_root, need.tokens, context.cache)
            return None
        record = records.read_record(context.store, need.digest)
        for artifact in record.artifacts.values() if record else ():
            artifacts.fetch(context.store, artifact, context.cache)
    except Damaged as problem:
        return str(problem)
    except KeyMissing as problem:
        return str(problem) if need.tokens is None else None
    return None


def _move(context: Context, need: Need, holder: Holder, why: str) -> bool:
    try:
        lease = leases.take(context.store, need.work_root, need.digest, holder)
    except LeaseHeld:
        return False  # whoever works there finds the damage too
    try:
        if need.tokens is None:
            aside.move_record_aside(context.store, need.digest, why)
        else:
            aside.move_checkpoint_aside(context.store, need.work_root, need.tokens, why)
    finally:
        lease.end("moved damage aside", 0, why)
    return True
