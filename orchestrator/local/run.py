"""Runs a plan in worker processes until everything is done, cannot be done, or a person stops it.

The command line's `run` calls `run_plan`. One thread waits on one queue: events of workers, their deaths, a wish to stop. What to start
next and what an end means is `schedule`'s decision; results are the trainer's; here are only processes, in order.
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
from orchestrator.local.workers import Crew, Gone, Message, StopRequest, Stray, Worker, cores, environment, share_gpus, trainer_command
from orchestrator.monitor.progress import Listener, Meter, Snapshot
from orchestrator.store import Store
from orchestrator.store.records import create_task, done

# Seconds between two looks at the clock when no worker says anything: also how often the live view's times move on.
TICK: Final = 0.5


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. All are digests; `failed` has the last message of each. `held_back` needed something that failed."""

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
    """Brings every wanted task of `plan` to a record. Returns when nothing can go on; never raises for a task that failed.

    `workers`: at most so many at once; 0 for one a core, or one a GPU. `only`: names of cells or patterns, empty
    for all. `logs`: folder for the workers' standard error. `micro_batch`: by size, where it is not the placement's. `prepared`: called
    after every prepare task; what it raises ends the run in order. `command`: starts a worker, by default this interpreter's
    `python -m trainer worker`. Raises PlanRefused for a cell that is not there or GPUs that are not, StoreError when the store cannot be
    read, ScalingStudyError when no worker can start.
    """
    schedule = Schedule(plan, wanted_tasks(plan, only), done(store))
    devices = share_gpus(placement.gpus, workers) if placement.gpus else []
    crew = Crew(command or trainer_command(store.url), environment(placement.threads), logs, len(devices) or workers or cores(), devices)
    return _Run(store, schedule, placement, micro_batch or {}, listener, stop or StopRequest(), crew, prepared, clock).to_its_end()


class _Run:
    def __init__(
        self, store: Store, schedule: Schedule, placement: Placement, micro_batch: Mapping[str, int], listener: Listener,
        stop: StopRequest, crew: Crew, prepared: Callable[[], None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.store = store
        self.schedule = schedule
        self.placement = placement
        self.micro_batch = micro_batch
        self.listener = listener
        self.stop = stop
        self.crew = crew
        self.prepared = prepared
        self.clock = clock
        self.messages: dict[str, str] = {}
        self.begun_at = clock()
        self.given_at: dict[str, float] = {}
        self.obeyed = 0
        open_tasks = [digest for digest in schedule.wanted if schedule.state[digest] is not State.DONE]
        self.meter = Meter(self.begun_at, sum(cost(schedule.plan, schedule.plan.tasks[digest]) for digest in open_tasks))

    def to_its_end(self) -> RunResult:
        try:
            while not self._is_over():
                self._obey()
                if not self.stop.times:
                    self._start_what_can()
                self._take(self._timeout())
                self.listener.show(self.snapshot())
        finally:
            self.crew.leave()
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
        busy = any(worker.task for worker in self.crew.workers)
        return not busy and (bool(self.stop.times) or self.schedule.is_over())

    def _obey(self) -> None:
        """Acts once on each wish to stop."""
        if self.stop.times == self.obeyed:
            return
        self.obeyed = self.stop.times
        busy = [worker for worker in self.crew.workers if worker.task]
        if self.stop.times == 1:
            self.listener.note(f"stopping: {len(busy)} tasks write a checkpoint and end; Ctrl-C again ends them at once")
        for worker in self.crew.workers:
            if self.stop.times == 1:
                worker.ask_to_stop()
            else:
                worker.kill()

    def _start_what_can(self) -> None:
        """Gives tasks to idle workers, and starts a worker only when there is a task for it."""
        while self.crew.has_room() and (planned := self.schedule.next(self.clock())) is not None:
            self._give(self.crew.idle() or self.crew.hire(self.stop.inbox), planned)

    def _give(self, worker: Worker, planned: PlannedTask) -> None:
        self.given_at[planned.digest] = self.clock()
        self.meter.given(planned, cost(self.schedule.plan, planned), self.clock())
        worker.task = planned.digest
        try:
            create_task(self.store, planned.task)
        except StoreError as problem:
            self._end(worker, ExitCode.FAILED, str(problem))
        else:
            micro_batch = self.micro_batch.get(planned.size, self.placement.micro_batch)
            gpus = self.placement.gpus if KINDS[planned.kind].has_model else 0
            worker.give(planned.digest, replace(self.placement, micro_batch=micro_batch, gpus=gpus))

    def _timeout(self) -> float:
        due = self.schedule.due()
        return TICK if due is None else min(TICK, max(0.0, due - self.clock()))

    def _take(self, timeout: float) -> None:
        """Waits for one message and takes all that are there."""
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
                self.crew.note_ready(worker)
            case Start(digest=digest) if digest == worker.task:
                self.schedule.started(digest, message.from_tokens)
                self.meter.started(digest, message.from_tokens)
            case Progress(digest=digest) if digest == worker.task:
                self.meter.progressed(message, self.clock())
            case End(digest=digest) if digest == worker.task:
                self._end(worker, message.code, message.message)
            case Gone():
                self._bury(worker, message.code)
            case Stray():
                self.listener.note(f"worker {worker.number}: {message.text}")
            case _:
                self.listener.note(f"worker {worker.number}: an event of a task that it was not given: {message}")

    def _end(self, worker: Worker, code: int, message: str) -> None:
        digest, worker.task = worker.task, ""
        ended = self.schedule.ended(digest, code, self.clock())
        self.meter.ended(digest, ended.outcome is Outcome.DONE)
        self.messages[digest] = message or f"ended with {code}"
        if ended.outcome in (Outcome.AGAIN, Outcome.HELD, Outcome.FAILED):
            self._look_for_lost_needs(digest)
        self.listener.note(self._told(digest, ended, self.messages[digest]))
        if ended.outcome is Outcome.DONE and self.schedule.plan.tasks[digest].kind is TaskKind.PREPARE:
            self.prepared()

    def _look_for_lost_needs(self, digest: str) -> None:
        """Whoever meets a damaged input moves it aside: then what made it runs again first."""
        try:
            there = done(self.store)
        except StoreError:
            return
        for lost in self.schedule.recheck(digest, there):
            self.meter.open_cost += cost(self.schedule.plan, self.schedule.plan.tasks[lost])
            self.listener.note(f"{self._name(lost)} is no longer in the store and is made again")

    def _bury(self, worker: Worker, code: int) -> None:
        """A process is gone: its task, if it had one, is queued again. The next task starts a new worker."""
        self.crew.bury(worker, code, is_expected=bool(self.stop.times))
        if worker.task:
            words = worker.last_words()
            told = f"its worker died with exit code {code}" + (f":\n{words}" if words else "")
            self._end(worker, ExitCode.STOPPED if self.stop.times or not worker.is_ready else code or ExitCode.FAILED, told)

    def _told(self, digest: str, ended: Ended, message: str) -> str:
        """One line for people about the end of an attempt."""
        name = self._name(digest)
        took = format_duration(self.clock() - self.given_at[digest])
        match ended.outcome:
            case Outcome.DONE:
                return f"done    {name} ({took})"
            case Outcome.STOPPED:
                return f"stopped {name}: it goes on from its last checkpoint"
            case Outcome.HELD:
                return f"held    {name}: {message}; asking again in {ended.delay:.0f} s"
            case Outcome.AGAIN:
                return f"failed  {name}: {message}; again in {ended.delay:.0f} s"
            case Outcome.FAILED:
                return f"FAILED  {name}, for good: {message}"

    def _name(self, digest: str) -> str:
        planned = self.schedule.plan.tasks[digest]
        return f"{planned.kind} {planned.label} [{digest[:12]}]"
