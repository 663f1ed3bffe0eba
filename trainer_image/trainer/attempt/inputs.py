"""What a task reads of other tasks, and what becomes of it when it is damaged.

`attempt` asks after a failure that bytes explain: whatever this task needs and does not hold what its record or pointer promised is
moved aside, so that it counts as not done and is done again.
"""

from orchestrator.contract.tasks import Need
from orchestrator.errors import Damaged, KeyMissing, LeaseHeld
from orchestrator.store import addresses, artifacts, checkpoints, leases, records
from orchestrator.store import quarantine as aside
from orchestrator.store.leases import Holder
from trainer.context import Context


def _work_root(need: Need) -> str:
    return addresses.work_root(need.kind, need.digest)


def move_damaged_aside(context: Context, holder: Holder) -> list[str]:
    """Check all that the task needs; what is damaged is moved aside under its own lease. Names what was."""
    moved = []
    for need in context.task.needs():
        why = _damage(context, need)
        if why is not None and _move(context, need, holder, why):
            moved.append(str(need))
    return moved


def undone(context: Context) -> list[str]:
    """What the task needs and is not done, or not any more. Names it."""
    return [str(need) for need in context.task.needs() if not _is_done(context, need)]


def _is_done(context: Context, need: Need) -> bool:
    digest = need.digest if need.tokens is None else aside.task_that_ends_at(context.store, _work_root(need), need.tokens)
    try:
        return digest is not None and records.find_record(context.store, digest) is not None
    except Damaged:
        return False


def _damage(context: Context, need: Need) -> str | None:
    """Why a need that is recorded as done is not whole; None when it is whole, or not done."""
    try:
        if need.tokens is not None:
            checkpoints.load(context.store, _work_root(need), need.tokens, context.cache)
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
        lease = leases.acquire(context.store, _work_root(need), need.digest, holder)
    except LeaseHeld:
        return False  # whoever works there finds the damage too
    try:
        if need.tokens is None:
            aside.quarantine_record(context.store, need.digest, why)
        else:
            aside.quarantine_checkpoint(context.store, _work_root(need), need.tokens, why)
    finally:
        lease.end("moved damage aside", 0, why)
    return True
