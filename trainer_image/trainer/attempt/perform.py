"""One attempt at one task: from its digest to its record, or to an exit code that classifies the failure.

`__main__` runs one attempt, `worker` runs one after the other. This module decides everything around the work itself: whether the task
is done already, who holds its lease, how a failure is classified, what the record contains. `prepare`, `training` and `evaluate` do the
work and do not depend on this module.
"""

import os
import socket
import stat
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
from orchestrator.store import Store, addresses, leases, quarantine, records
from orchestrator.store.leases import Holder, Lease
from trainer.attempt import provenance
from trainer.attempt.inputs import quarantine_damaged, unfinished
from trainer.attempt.provenance import AttemptFile
from trainer.context import Context, Outcome, PeerLost, Stopped, shards_of

FAILURES_ALLOWED: Final = 3
"""Failures of a task within one run number after which it is not retried."""

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
    """Import all modules that tasks need and record the commit of the code, so that a worker reports `ready` only after that."""
    for module in RUNNERS.values():
        import_module(module)
    provenance.commit()


def _ignore_lease(lease: Lease) -> None:
    del lease


def run_task(
    store: Store,
    digest: str,
    placement: Placement,
    emit: Emit,
    stop: Callable[[], bool],
    work: Work = perform,
    leased: Callable[[Lease], None] = _ignore_lease,
) -> ExitCode:
    """Run the task `digest` until it is done, has failed, or `stop` returns True, and return the exit code.

    `emit` receives every event, including the final one. `work` runs under the lease; only tests replace it. `leased` is called with the
    lease once it is acquired.
    """
    try:
        code, message = _attempt(store, digest, placement, emit, stop, work, leased)
    except Exception as problem:
        code, message = exit_code(problem), error_message(problem)
    emit(End(digest, int(code), message))
    return code


def follow_task(store: Store, digest: str, placement: Placement, stop: Callable[[], bool]) -> ExitCode:
    """Run a rank other than rank 0, which only train tasks have, and return its exit code. Print the reason of an early exit on stderr."""
    try:
        if isinstance(_read(store, digest), TrainTask):
            from trainer.training.run import follow

            follow(store, digest, placement, shards_of(placement, _cache(placement)), stop)
    except Exception as problem:
        code = exit_code(problem)
        if code == ExitCode.FAILED:  # rank 0 writes failure.json, but knows only that another rank was lost
            traceback.print_exception(problem)
        print(f"trainer: rank {os.environ.get('RANK')} of {digest[:12]}: {error_message(problem)}", file=sys.stderr, flush=True)
        return code
    return ExitCode.STOPPED if stop() else ExitCode.DONE


def exit_code(problem: BaseException) -> ExitCode:
    """Return the exit code of an exception, which decides about a retry."""
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


def error_message(problem: BaseException) -> str:
    """Return the message of an exception, prefixed with its type unless the exception is our own."""
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
        return ExitCode.STOPPED, "asked to stop before it started"
    task, cache = _read(store, digest), _cache(placement)
    lease = leases.acquire(store, _work_root(task, digest), digest, _holder(placement))
    leased(lease)
    started = False

    def listen(done: int, total: int, unit: str, loss: float | None) -> None:
        nonlocal started
        if not started:  # the task sets from_tokens before its first progress
            emit(Start(digest, lease.number, lease.body.from_tokens))
            started = True
        emit(Progress(digest, done, total, unit, loss))

    return _under_lease(Context(store, digest, task, lease, placement, cache, listen, stop), work)


def _is_done(store: Store, digest: str) -> bool:
    """Return whether the record exists. A damaged record counts as missing; the lease holder quarantines it."""
    try:
        return records.read_record(store, digest) is not None
    except Damaged:
        return False


def _read(store: Store, digest: str) -> Task:
    """Return the task, checked against its digest and against the NUMERICS version of this trainer."""
    try:
        task = records.read_task(store, digest)
    except ContractError as problem:
        raise TaskRefused(f"task {digest}: {problem}") from problem
    required = task.required_numerics()
    if required is not None and required != NUMERICS:
        raise TaskRefused(
            f"task {digest} requires NUMERICS {required}; this trainer implements {NUMERICS}: use the image that the task was planned with"
        )
    return task


def _work_root(task: Task, digest: str) -> str:
    """Return the store prefix of the task's attempts. Horizons of one trajectory share it, so that no token is trained twice."""
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
    """Return the folder for downloads. Raises TaskRefused if other users could have put files into the default one."""
    cache = Path(placement.cache) if placement.cache else Path(tempfile.gettempdir()) / f"scaling-study-{os.getuid()}"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise TaskRefused(f"the cache {cache} cannot be created: {problem}; name another folder with --cache") from problem
    if not placement.cache:
        _check_private(cache)
    return cache


def _check_private(cache: Path) -> None:
    """Raise TaskRefused if another user owns or may write the folder: everyone may create one of this name in the temporary folder."""
    status = cache.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TaskRefused(
            f"the cache {cache} belongs to user {status.st_uid} with mode {stat.filemode(status.st_mode)}; it must be a folder of user "
            f"{os.getuid()} that no other user may write. Remove it, or name another folder with --cache"
        )


def _under_lease(context: Context, work: Work) -> tuple[ExitCode, str]:
    attempt_file = None
    try:
        if not _is_done_now(context):
            _refuse_after_too_many_failures(context)
            attempt_file = AttemptFile(context)
            outcome = work(context)
            context.lease.check()
            _publish(context, outcome, attempt_file)
        code, message = ExitCode.DONE, ""
    except Exception as problem:
        code, message = _classify(context, problem)
        _write_failure(context, code, message, problem)
    except BaseException as problem:
        context.lease.end("interrupted", int(ExitCode.FAILED), error_message(problem))
        raise
    _release(context, attempt_file, code, message)
    return code, message


def _is_done_now(context: Context) -> bool:
    """Return whether the previous lease holder has finished the task. Quarantine a damaged record, so that it is made again."""
    try:
        if records.read_record(context.store, context.digest) is not None:
            return True
    except Damaged as problem:
        quarantine.quarantine_record(context.store, context.digest, str(problem))
        return False
    records.discard_marker_without_record(context.store, context.digest)
    return False


def _refuse_after_too_many_failures(context: Context) -> None:
    """Raise TaskRefused if the earlier attempts have reached the failure limit. Killed attempts could not check it at their end."""
    failures = _failures(context)
    if failures >= FAILURES_ALLOWED:
        raise TaskRefused(
            f"the task has failed {failures} times in run {context.placement.run_number}, {FAILURES_ALLOWED} are allowed; "
            "use `retry` to start a new run number"
        )


def _failures(context: Context) -> int:
    before = [body for body in leases.history(context.store, context.lease.work_root) if body.number < context.lease.number]
    return leases.failures(before, context.digest, context.placement.run_number)


def _publish(context: Context, outcome: Outcome, attempt_file: AttemptFile) -> None:
    own = attempt_file.close(ExitCode.DONE.name.lower(), outcome)
    record = Record(
        digest=context.digest,
        identity=context.task.identity(),
        results=outcome.results,
        artifacts=outcome.artifacts,
        attempts=provenance.attempts(context.store, context.lease.work_root, own),
        nonce=uuid4().hex,
    )
    records.publish_record(context.store, record)


def _classify(context: Context, problem: Exception) -> tuple[ExitCode, str]:
    """Return the exit code and message of a failure, after quarantining damaged inputs."""
    code, message = exit_code(problem), error_message(problem)
    if code != ExitCode.FAILED:
        return code, message
    try:
        return _classify_failure(context, problem, message)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: could not check the inputs and earlier failures: {trouble}", file=sys.stderr)
        return code, message


def _classify_failure(context: Context, problem: Exception, message: str) -> tuple[ExitCode, str]:
    if isinstance(problem, (Damaged, KeyMissing)):
        quarantined = quarantine_damaged(context, _holder(context.placement))
        message += f"; quarantined, to be done again: {', '.join(quarantined)}" if quarantined else ""
        if waits_for := unfinished(context):
            # not a failure of this task: it is retried once its inputs are done
            return ExitCode.HELD, message if quarantined else f"{message}; waits for {', '.join(waits_for)}"
    failures = _failures(context) + 1
    if failures < FAILURES_ALLOWED:
        return ExitCode.FAILED, message
    return ExitCode.REFUSED, f"{message} (failure {failures} in run {context.placement.run_number}, the last one allowed)"


def _write_failure(context: Context, code: ExitCode, message: str, problem: Exception) -> None:
    """Write failure.json into the attempt's folder if the attempt failed."""
    if code not in (ExitCode.FAILED, ExitCode.REFUSED):
        return
    details = {"type": type(problem).__name__, "traceback": "".join(traceback.format_exception(problem))}
    try:
        records.record_failure(context.store, context.lease, int(code), message, details)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: could not write failure.json: {trouble}", file=sys.stderr)


def _release(context: Context, attempt_file: AttemptFile | None, code: ExitCode, message: str) -> None:
    """End the lease. If the store is unavailable, the result stays valid and the lease expires by itself."""
    try:
        if attempt_file is not None and code != ExitCode.DONE:
            attempt_file.close(code.name.lower())
        context.lease.end(code.name.lower(), int(code), message)
    except StoreError as trouble:
        print(f"trainer: {context.digest[:12]}: could not end the lease, it will expire: {trouble}", file=sys.stderr)
