"""Check the inputs that a task reads from other tasks, and quarantine damaged ones.

`perform` calls it after a failure that damaged or missing data may explain. An input whose content does not match its record or
checkpoint pointer is quarantined, so that its task counts as not done and runs again.
"""

from orchestrator.contract.tasks import Need
from orchestrator.errors import Damaged, KeyMissing, LeaseHeld
from orchestrator.store import addresses, artifacts, checkpoints, leases, quarantine, records
from orchestrator.store.leases import Holder
from trainer.context import Context


def _work_root(need: Need) -> str:
    return addresses.work_root(need.kind, need.digest)


def quarantine_damaged(context: Context, holder: Holder) -> list[str]:
    """Check all inputs of the task, quarantine damaged ones under their own leases, and return the names of these."""
    quarantined = []
    for need in context.task.needs():
        why = _damage(context, need)
        if why is not None and _quarantine(context, need, holder, why):
            quarantined.append(str(need))
    return quarantined


def unfinished(context: Context) -> list[str]:
    """Return the names of the task's inputs that are not done."""
    return [str(need) for need in context.task.needs() if not _is_done(context, need)]


def _is_done(context: Context, need: Need) -> bool:
    digest = need.digest if need.tokens is None else quarantine.task_that_ends_at(context.store, _work_root(need), need.tokens)
    try:
        return digest is not None and records.find_record(context.store, digest) is not None
    except Damaged:
        return False


def _damage(context: Context, need: Need) -> str | None:
    """Return how an input recorded as done is damaged; None if it is intact or not done."""
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
        # a checkpoint without a pointer is damaged only if the training that ends there is done
        return str(problem) if need.tokens is None or _is_done(context, need) else None
    return None


def _quarantine(context: Context, need: Need, holder: Holder, why: str) -> bool:
    try:
        lease = leases.acquire(context.store, _work_root(need), need.digest, holder)
    except LeaseHeld:
        return False  # the holder of that lease will find the damage itself
    try:
        if need.tokens is None:
            quarantine.quarantine_record(context.store, need.digest, why)
        else:
            quarantine.quarantine_checkpoint(context.store, _work_root(need), need.tokens, why)
    finally:
        lease.end("moved damage aside", 0, why)
    return True
