"""One attempt at one task: from its digest to its record, or to an exit code that says why not.

`__main__` runs one, `worker` one after the other. Everything around the work itself is decided here: is there anything to do, who may
do it, what becomes of a failure, what the record says. `prepare`, `train` and `evaluate` do the work and know nothing of this.
"""

import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final
from uuid import uuid4

from orchestrator.contract.events import End, Event, Placement, Progress, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import Task, TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import ContractError, Damaged, KeyMissing, LeaseHeld, MissingExtra, StoreError, TaskRefused
from orchestrator.store import Store, addresses, leases, records
from orchestrator.store import quarantine as aside
from orchestrator.store.leases import Holder, Lease
from trainer.attempt import provenance as lineage
from trainer.attempt.inputs import move_damaged_aside, undone
from trainer.attempt.provenance import Journal
from trainer.context import Context, Outcome, PeerLost, Stopped, shards_of

FAILURES_ALLOWED: Final = 3
"""The third failure of a task in one run number is its last."""

Emit = Callable[[Event], None]
Work = Callable[[Context], Outcome]


RUNNERS: Final[dict[TaskKind, str]] = {
    TaskKind.PREPARE: "trainer.prepare",
    TaskKind.TRAIN: "trainer.training.run",
    TaskKind.EVALUATE: "trainer.evaluate",
}
"""The module whose `run(context)` performs tasks of a kind. Imported when needed: a worker that prepares needs no torch."""


def perform(context: Context) -> Outcome:
    """Perform the task and return its outcome."""
    run: Work = import_module(RUNNERS[context.task.kind]).run
    return run(context)


def load() -> None:
    """Import all that any task needs, so that a worker that reports ready is ready, and record the commit of the code."""
    for module in RUNNERS.values():
        import_module(module)
    lineage.commit()


def _nobody_asks(lease: Lease) -> None:
    del lease


def run_task(
    store: Store,
    digest: str,
    placement: Placement,
    emit: Emit,
    stop: Callable[[], bool],
    work: Work = perform,
    leased: Callable[[Lease], None] = _nobody_asks,
) -> ExitCode:
    """Work on the task `digest` until it is done, has failed, or `stop` says so. Tells `emit` what happens, the end included.

    `work` is what is done under the lease; only tests give another. `leased` is told the lease when it is taken.
    """
    try:
        code, message = _attempt(store, digest, placement, emit, stop, work, leased)
    except Exception as problem:
        code, message = exit_code(problem), sentence(problem)
    emit(End(digest, int(code), message))
    return code


def follow_task(store: Store, digest: str, placement: Placement, stop: Callable[[], bool]) -> ExitCode:
    """The part of a rank that does not speak: only training has one. It says on stderr why it leaves before the end."""
    try:
        if isinstance(_read(store, digest), TrainTask):
            from trainer.training import run as train

            train.follow(store, digest, placement, shards_of(placement, _cache(placement)), stop)
    except Exception as problem:
        code = exit_code(problem)
        if code == ExitCode.FAILED:  # rank 0 writes failure.json, and knows only that another rank has gone
            traceback.print_exception(problem)
        print(f"trainer: rank {os.environ.get('RANK')} of {digest[:12]}: {sentence(problem)}", file=sys.stderr, flush=True)
        return code
    return ExitCode.STOPPED if stop() else ExitCode.DONE


def exit_code(problem: BaseException) -> ExitCode:
    """What an exception means to whoever decides about a retry."""
    if isinstance(problem, (Stopped, PeerLost)):
        return ExitCode.STOPPED
    if isinstance(problem, LeaseHeld):
        return ExitCode.HELD
    if isinstance(problem, (TaskRefused, MissingExtra, MemoryError)) or _is_out_of_gpu_memory(problem):
        return ExitCode.REFUSED
    return ExitCode.FAILED


def _is_out_of_gpu_memory(problem: BaseException) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(problem, torch.OutOfMemoryError)


def sentence(problem: BaseException) -> str:
    """For people: our own errors speak for themselves, others are introduced by their type."""
    text = str(problem)
    ours = type(problem).__module__ in (StoreError.__module__, Stopped.__module__)
    return text if ours and text else f"{type(problem).__name__}: {text}".removesuffix(": ")


def _attempt(
    store: Store,
    digest: str,
    placement: Placement,
    emit: Emit,
    stop: Callable[[], bool],
    work: Work,
    leased: Callable[[Lease], None],
) -> tuple[ExitCode, str]:
    if _is_done(store, digest):
        return ExitCode.DONE, ""
    if stop():
        return ExitCode.STOPPED, "asked to stop before it began"
    task = _read(store, digest)
    lease = leases.acquire(store, _work_root(task, digest), digest, _holder(placement))
    leased(lease)
    started = False

    def listen(done: int, total: int, unit: str, loss: float | None) -> None:
        nonlocal started
        if not started:  # only now has the task said where it takes the trajectory up
            emit(Start(digest, lease.number, lease.body.from_tokens))
            started = True
        emit(Progress(digest, done, total, unit, loss))

    return _under_lease(Context(store, digest, task, lease, placement, _cache(placement), listen, stop), work)


def _is_done(store: Store, digest: str) -> bool:
    """A record that cannot be read is none: whoever holds the lease moves it aside."""
    try:
        return records.read_record(store, digest) is not None
    except Damaged:
        return False


def _read(store: Store, digest: str) -> Task:
    """The identity, checked against its digest and against what this trainer can do."""
    try:
        task = records.read_task(store, digest)
    except ContractError as problem:
        raise TaskRefused(f"task {digest}: {problem}") from problem
    asked = task.required_numerics()
    if asked is not None and asked != NUMERICS:
        raise TaskRefused(
            f"task {digest} asks for NUMERICS {asked}; this trainer computes {NUMERICS}: use the image that it was planned with"
        )
    return task


def _work_root(task: Task, digest: str) -> str:
    """Where the attempts of a task live: horizons of one trajectory share a place, so that no token is trained twice."""
    return addresses.work_root(task.kind, task.work_digest(digest))


def _holder(placement: Placement) -> Holder:
    return Holder(
        study=placement.study,
        run_number=placement.run_number,
        workflow_node=placement.node,
        host=socket.gethostname(),
        gpus=placement.gpus * placement.nodes,
        lease_seconds=placement.lease_seconds,
    )


def _cache(placement: Placement) -> Path:
    cache = Path(placement.cache) if placement.cache else Path(tempfile.gettempdir()) / f"scaling-study-{os.getuid()}"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache


def _under_lease(context: Context, work: Work) -> tuple[ExitCode, str]:
    journal = None
    try:
        if not _is_done_after_all(context):
            _refuse_a_hopeless_task(context)
            journal = Journal(context)
            outcome = work(context)
            context.lease.check()
            _publish(context, outcome, journal)
        code, message = ExitCode.DONE, ""
    except Exception as problem:
        code, message = _judged(context, problem)
        _say_why(context, code, message, problem)
    except BaseException as problem:
        context.lease.end("interrupted", int(ExitCode.FAILED), sentence(problem))
        raise
    _leave(context, journal, code, message)
    return code, message


def _is_done_after_all(context: Context) -> bool:
    """Whoever held the lease while we waited for it may have finished. A damaged record goes, so that it is made again."""
    try:
        return records.read_record(context.store, context.digest) is not None
    except Damaged as problem:
        aside.quarantine_record(context.store, context.digest, str(problem))
        return False


def _refuse_a_hopeless_task(context: Context) -> None:
    """For attempts that were killed and could not count themselves."""
    failures = _failures(context)
    if failures >= FAILURES_ALLOWED:
        raise TaskRefused(f"it has failed {failures} times in run {context.placement.run_number}; a `retry` begins a new run number")


def _failures(context: Context) -> int:
    before = [body for body in leases.history(context.store, context.lease.work_root) if body.number < context.lease.number]
    return leases.failures(before, context.digest, context.placement.run_number)


def _publish(context: Context, outcome: Outcome, journal: Journal) -> None:
    own = journal.close(ExitCode.DONE.name.lower(), outcome)
    record = Record(
        digest=context.digest,
        identity=context.task.identity(),
        results=outcome.results,
        artifacts=outcome.artifacts,
        attempts=lineage.attempts(context.store, context.lease.work_root, own),
        nonce=uuid4().hex,
    )
    records.publish_record(context.store, record)


def _judged(context: Context, problem: Exception) -> tuple[ExitCode, str]:
    """Exit code and message of a failure, after what can be mended has been."""
    code, message = exit_code(problem), sentence(problem)
    if code != ExitCode.FAILED:
        return code, message
    try:
        return _judged_by_the_store(context, problem, message)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: what the failure means for others cannot be looked up: {trouble}", file=sys.stderr)
        return code, message


def _judged_by_the_store(context: Context, problem: Exception, message: str) -> tuple[ExitCode, str]:
    if isinstance(problem, (Damaged, KeyMissing)):
        moved = move_damaged_aside(context, _holder(context.placement))
        message += f"; moved aside, to be done again: {', '.join(moved)}" if moved else ""
        if waits_for := undone(context):
            # not its own failure: it is asked for again when what it needs has been made
            return ExitCode.HELD, message if moved else f"{message}; waits for {', '.join(waits_for)}"
    failures = _failures(context) + 1
    if failures < FAILURES_ALLOWED:
        return ExitCode.FAILED, message
    return ExitCode.REFUSED, f"{message} (failure {failures} in run {context.placement.run_number}, the last one allowed)"


def _say_why(context: Context, code: ExitCode, message: str, problem: Exception) -> None:
    """failure.json in the attempt's folder, for failures."""
    if code not in (ExitCode.FAILED, ExitCode.REFUSED):
        return
    details = {"type": type(problem).__name__, "traceback": "".join(traceback.format_exception(problem))}
    try:
        records.record_failure(context.store, context.lease, int(code), message, details)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: the reason of the failure could not be written: {trouble}", file=sys.stderr)


def _leave(context: Context, journal: Journal | None, code: ExitCode, message: str) -> None:
    """Give the lease back. A store that is away cannot undo what is done; the lease then expires by itself."""
    try:
        if journal is not None and code != ExitCode.DONE:
            journal.close(code.name.lower())
        context.lease.end(code.name.lower(), int(code), message)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: the lease could not be given back, it will expire: {trouble}", file=sys.stderr)
