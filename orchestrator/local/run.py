"""Run a plan in worker processes until every task is done or blocked, or the user stops the run.

The `run` command calls `run_plan`. One thread waits on one queue, which carries worker events, worker exits and stop requests.
`schedule` selects the next task and interprets exit codes; the trainer writes the results.
"""

import queue
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.contract.events import End, Placement, Progress, Ready, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.formatting import format_duration
from orchestrator.contract.kinds import KINDS
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import StoreError
from orchestrator.local.schedule import Ended, Outcome, Schedule, State, cost, wanted_tasks
from orchestrator.local.workers import (
    Exited,
    Message,
    StopRequest,
    UnexpectedOutput,
    Worker,
    WorkerPool,
    cores,
    environment,
    share_gpus,
    trainer_command,
)
from orchestrator.monitor.progress import Listener, Meter, Snapshot
from orchestrator.store import Store
from orchestrator.store.records import IntactRecords, create_task, done, finished_tasks

# Longest wait for a message, in seconds; also the interval at which the displayed times are updated without events
TICK: Final = 0.5


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run, by task digest. `failed`: last message of each failed task. `held_back`: tasks that depend on a failed task."""

    done: frozenset[str]
    skipped: int
    failed: dict[str, str]
    held_back: frozenset[str]
    was_stopped: bool
    seconds: float

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.held_back and not self.was_stopped


def run_plan(
    store: Store,
    plan: Plan,
    placement: Placement,
    *,
    workers: int,
    listener: Listener,
    logs: Path,
    only: Collection[str] = (),
    stop: StopRequest | None = None,
    micro_batch: Mapping[str, int] | None = None,
    prepared: Callable[[], None] = lambda: None,
    command: Sequence[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Run the selected tasks of `plan` and return when no further task can start. A failed task does not raise.

    `workers`: maximum number of workers; 0 means one per core, or one per GPU. `only`: cell names or patterns; empty means all cells.
    `logs`: folder for the standard error of the workers. `micro_batch`: by size, overrides the placement's. `prepared`: called after every
    prepare task; an exception that it raises shuts down the workers and ends the run. `command`: command that starts a worker, by default
    `python -m trainer worker` with this interpreter. Raises PlanRefused for an unknown cell or missing GPUs, StoreError if the store
    cannot be read, ScalingStudyError if workers cannot start.
    """
    wanted, records = wanted_tasks(plan, only), IntactRecords(store)
    schedule = Schedule(plan, wanted, records.finished(wanted & done(store)))
    for digest, why in records.damaged.items():
        listener.note(f"{plan.tasks[digest].kind} {plan.tasks[digest].label} is run again: {why}")
    devices = share_gpus(placement.gpus, workers) if placement.gpus else []
    pool = WorkerPool(
        command or trainer_command(store.url), environment(placement.threads), logs, len(devices) or workers or cores(), devices
    )
    return _Run(store, schedule, placement, micro_batch or {}, listener, stop or StopRequest(), pool, prepared, clock).run()


class _Run:
    def __init__(
        self, store: Store, schedule: Schedule, placement: Placement, micro_batch: Mapping[str, int], listener: Listener,
        stop: StopRequest, pool: WorkerPool, prepared: Callable[[], None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.store = store
        self.schedule = schedule
        self.placement = placement
        self.micro_batch = micro_batch
        self.listener = listener
        self.stop = stop
        self.pool = pool
        self.prepared = prepared
        self.clock = clock
        self.messages: dict[str, str] = {}
        self.begun_at = clock()
        self.assigned_at: dict[str, float] = {}
        self.handled_stops = 0
        open_tasks = [digest for digest in schedule.wanted if schedule.state[digest] is not State.DONE]
        self.meter = Meter(self.begun_at, sum(cost(schedule.plan, schedule.plan.tasks[digest]) for digest in open_tasks))

    def run(self) -> RunResult:
        try:
            while not self._is_over():
                self._handle_stop()
                if not self.stop.times:
                    self._start_tasks()
                self._receive(self._timeout())
                self.listener.show(self.snapshot())
        finally:
            self.pool.close()
        held_back = frozenset() if self.stop.times else frozenset(self.schedule.held_back())
        return RunResult(
            done=frozenset(digest for digest, state in self.schedule.state.items() if state is State.DONE),
            skipped=self.schedule.skipped,
            failed={digest: self.messages.get(digest, "") for digest in self.schedule.failed()},
            held_back=held_back,
            was_stopped=bool(self.stop.times) and self.schedule.count(State.WAITING) > 0,
            seconds=self.clock() - self.begun_at,
        )

    def snapshot(self) -> Snapshot:
        now = self.clock()
        running = self.meter.running()
        held_back = len(self.schedule.held_back())
        return Snapshot(
            total=len(self.schedule.wanted),
            done=self.schedule.count(State.DONE),
            skipped=self.schedule.skipped,
            waiting=self.schedule.count(State.WAITING) - held_back,
            failed=self.schedule.count(State.FAILED),
            held_back=held_back,
            running=running,
            tokens=self.meter.tokens(),
            tokens_per_second=sum(task.per_second for task in running if task.unit == "tokens"),
            elapsed=now - self.begun_at,
            eta=self.meter.eta(now),
        )

    def _is_over(self) -> bool:
        busy = any(worker.task for worker in self.pool.workers)
        return not busy and (bool(self.stop.times) or self.schedule.is_over())

    def _handle_stop(self) -> None:
        """Handle each stop request once."""
        if self.stop.times == self.handled_stops:
            return
        self.handled_stops = self.stop.times
        busy = [worker for worker in self.pool.workers if worker.task]
        if self.stop.times == 1:
            self.listener.note(f"stopping: {len(busy)} running tasks write a checkpoint and exit; press Ctrl-C again to kill them at once")
        for worker in self.pool.workers:
            if self.stop.times == 1:
                worker.ask_to_stop()
            else:
                worker.kill()

    def _start_tasks(self) -> None:
        """Assign tasks to idle workers. A worker is started only if there is a task for it."""
        while self.pool.has_room() and (planned := self.schedule.next(self.clock())) is not None:
            self._assign(self.pool.idle() or self.pool.start(self.stop.inbox), planned)

    def _assign(self, worker: Worker, planned: PlannedTask) -> None:
        self.assigned_at[planned.digest] = self.clock()
        self.meter.given(planned, cost(self.schedule.plan, planned), self.clock())
        worker.task = planned.digest
        try:
            create_task(self.store, planned.task)
        except StoreError as problem:
            self._end(worker, ExitCode.FAILED, str(problem))
        else:
            micro_batch = self.micro_batch.get(planned.size, self.placement.micro_batch)
            gpus = self.placement.gpus if KINDS[planned.kind].has_model else 0
            worker.assign(planned.digest, replace(self.placement, micro_batch=micro_batch, gpus=gpus))

    def _timeout(self) -> float:
        due = self.schedule.due()
        return TICK if due is None else min(TICK, max(0.0, due - self.clock()))

    def _receive(self, timeout: float) -> None:
        """Wait for one message, then handle all queued messages."""
        try:
            worker, message = self.stop.inbox.get(timeout=timeout)
            while True:
                if worker is not None and message is not None:
                    self._react(worker, message)
                worker, message = self.stop.inbox.get_nowait()
        except queue.Empty:
            return

    def _react(self, worker: Worker, message: Message) -> None:
        match message:
            case Ready():
                self.pool.note_ready(worker)
            case Start(digest=digest) if digest == worker.task:
                self.schedule.started(digest, message.from_tokens)
                self.meter.started(digest, message.from_tokens)
            case Progress(digest=digest) if digest == worker.task:
                self.meter.progressed(message, self.clock())
            case End(digest=digest) if digest == worker.task:
                self._end(worker, message.code, message.message)
            case Exited():
                self._reap(worker, message.code)
            case UnexpectedOutput():
                self.listener.note(f"worker {worker.number}: {message.text}")
            case _:
                self.listener.note(f"worker {worker.number}: unexpected event of a task that is not assigned to it: {message}")

    def _end(self, worker: Worker, code: int, message: str) -> None:
        digest, worker.task = worker.task, ""
        ended = self.schedule.ended(digest, code, self.clock())
        self.meter.ended(digest, ended.outcome is Outcome.DONE)
        self.messages[digest] = message or f"ended with {code}"
        if ended.outcome in (Outcome.AGAIN, Outcome.HELD, Outcome.FAILED):
            self._recheck_needs(digest)
        self.listener.note(self._describe_end(digest, ended, self.messages[digest]))
        if ended.outcome is Outcome.DONE and self.schedule.plan.tasks[digest].kind is TaskKind.PREPARE:
            self.prepared()

    def _recheck_needs(self, digest: str) -> None:
        """Queue again the tasks whose outputs are missing: a trainer that reads a damaged input quarantines it."""
        try:
            there = finished_tasks(self.store, self.schedule.plan.tasks[digest].needs)
        except StoreError:
            return
        for lost in self.schedule.recheck(digest, there):
            self.meter.open_cost += cost(self.schedule.plan, self.schedule.plan.tasks[lost])
            self.listener.note(f"{self._name(lost)} is no longer in the store and is run again")

    def _reap(self, worker: Worker, code: int) -> None:
        """Handle the exit of a worker: its task, if any, is queued again. The next task starts a new worker."""
        self.pool.reap(worker, code, is_expected=bool(self.stop.times))
        if worker.task:
            log_tail = worker.log_tail()
            reason = f"its worker died with exit code {code}" + (f":\n{log_tail}" if log_tail else "")
            self._end(worker, ExitCode.STOPPED if self.stop.times or not worker.is_ready else code or ExitCode.FAILED, reason)

    def _describe_end(self, digest: str, ended: Ended, message: str) -> str:
        """Return one line about the end of an attempt."""
        name = self._name(digest)
        took = format_duration(self.clock() - self.assigned_at[digest])
        match ended.outcome:
            case Outcome.DONE:
                return f"done    {name} ({took})"
            case Outcome.STOPPED:
                return f"stopped {name}: it resumes from its last checkpoint"
            case Outcome.HELD:
                return f"held    {name}: {message}; next attempt in {ended.delay:.0f} s"
            case Outcome.AGAIN:
                return f"failed  {name}: {message}; next attempt in {ended.delay:.0f} s"
            case Outcome.FAILED:
                return f"FAILED  {name} permanently: {message}"

    def _name(self, digest: str) -> str:
        planned = self.schedule.plan.tasks[digest]
        return f"{planned.kind} {planned.label} [{digest[:12]}]"
