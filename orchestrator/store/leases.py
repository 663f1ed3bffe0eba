"""Numbered leases on tasks and trajectories: acquired by create-only writes, renewed by progress, kept as a history of attempts.

The trainer acquires a lease before it writes anything; the local run, the status and the controller read the history. Clocks only decide
when an attempt may try to take over. Create-only writes and fencing numbers decide which attempt holds the lease.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import getpid
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict

from orchestrator.contract.exits import KILLED, TERMINATED, meaning_of
from orchestrator.contract.vocabulary import CLOCK_MARGIN
from orchestrator.errors import Damaged, KeyMissing, LeaseHeld, LeaseLost, StoreUnavailable
from orchestrator.store.addresses import attempt_key, lease_key, lease_number, leases_prefix
from orchestrator.store.documents import parse_model
from orchestrator.store.objects import Stat, Store, create_once
from orchestrator.store.pointers import read_pointer
from orchestrator.store.processes import Host, current_host, start_time

RENEW_SECONDS: Final = 5.0
"""Minimum seconds between two renewals (or a quarter of the lease, if that is less)."""

SILENT_ENDS: Final = 10
"""This many attempts that ended without a reason or a new checkpoint count as one failure."""

_RETRY_OF_NODE: Final = re.compile(r"^(.+)\((\d+)\)$")


@dataclass(frozen=True, slots=True)
class Holder:
    """The applicant for a lease.

    `workflow_node`: Argo's name of a retry, `node(2)`, whose number identifies a later retry; "" without a Workflow.
    """

    study: str = ""
    run_number: int = 1
    workflow_node: str = ""
    host: str = ""
    gpus: int = 0
    lease_seconds: float = 600


class Ended(BaseModel):
    """How an attempt ended. `how` and `message` are free text; `code` is an ExitCode."""

    model_config = ConfigDict(frozen=True)
    at: AwareDatetime
    how: str
    code: int
    message: str = ""


class LeaseBody(BaseModel):
    """The content of a lease file. `tokens`: progress at the last renewal. `from_tokens`, `from_attempt`: the checkpoint it resumed from.

    `took_up`: whether its starting point is recorded. `checkpoint`: the last one it wrote. `pid_started`, `boot`: see `processes`.
    """

    model_config = ConfigDict(frozen=True)
    number: int
    digest: str
    study: str
    run_number: int
    workflow_node: str
    host: str
    boot: str
    pid: int
    pid_started: int
    gpus: int
    lease_seconds: float
    start: AwareDatetime
    renewed: AwareDatetime
    tokens: int = 0
    from_tokens: int = 0
    from_attempt: int | None = None
    took_up: bool = False
    checkpoint: int | None = None
    ended: Ended | None = None
    nonce: str


class Lease:
    """A lease that this process holds. Not shared between threads."""

    def __init__(self, store: Store, work_root: str, body: LeaseBody) -> None:
        self.work_root = work_root
        self.body = body
        self._store = store
        self._metrics_written = 0

    @property
    def number(self) -> int:
        """The fencing number, which is also the attempt's number."""
        return self.body.number

    def key(self, *parts: str) -> str:
        """Return a key in this attempt's own folder."""
        return attempt_key(self.work_root, self.number, *parts)

    def renew(self, tokens: int) -> None:
        """Renew the lease if `tokens`, the progress in the task's own unit, has grown. Raises LeaseLost.

        Store outages are tolerated until the lease would have expired; then StoreUnavailable is raised.
        """
        if tokens > self.body.tokens:
            self._renew(tokens)

    def renew_uncounted(self) -> None:
        """Renew the lease after progress that is not counted in tokens, such as a download. Raises the errors of `renew`."""
        self._renew(self.body.tokens)

    def _renew(self, tokens: int) -> None:
        if not self._is_due():
            # written by the next renewal, or by `end`
            self.body = self.body.model_copy(update={"tokens": tokens})
            return
        try:
            self._write(tokens=tokens, renewed=self._store.clock())
        except StoreUnavailable:
            if self._store.clock() - self.body.renewed > timedelta(seconds=self.body.lease_seconds):
                raise

    def _is_due(self) -> bool:
        since = (self._store.clock() - self.body.renewed).total_seconds()
        return not 0 <= since < min(RENEW_SECONDS, self.body.lease_seconds / 4)

    def start_from(self, tokens: int) -> None:
        """Record the checkpoint that this attempt resumes from, in tokens; 0 is the trajectory's start. Raises LeaseLost."""
        self._write(
            from_tokens=tokens, tokens=tokens, from_attempt=self._attempt_of_checkpoint(tokens), took_up=True, renewed=self._store.clock()
        )

    def _attempt_of_checkpoint(self, tokens: int) -> int | None:
        try:
            return read_pointer(self._store, self.work_root, tokens).attempt if tokens else None
        except (KeyMissing, Damaged):
            return None

    def note_checkpoint(self, tokens: int) -> None:
        """Remember that a checkpoint was written; the next renewal records it."""
        self.body = self.body.model_copy(update={"checkpoint": tokens})

    def end(self, how: str, code: int, message: str = "") -> None:
        """Release the lease and record how the attempt ended. Changes only this attempt's own lease file, also after a takeover."""
        now = self._store.clock()
        ended = Ended(at=now, how=how, code=code, message=message)
        self.body = self.body.model_copy(update={"ended": ended})
        self._store.objects.put(lease_key(self.work_root, self.number), to_bytes(self.body))

    def check(self) -> None:
        """Raise LeaseLost if a later attempt has taken over."""
        try:
            self._store.objects.stat(lease_key(self.work_root, self.number + 1))
        except KeyMissing:
            return
        later = self.number + 1
        raise LeaseLost(f"{self.work_root}: attempt {self.number} lost the lease to attempt {later}; its later writes are ignored")

    def next_metrics(self) -> int:
        """Return the number of the attempt's next metrics table, from 1."""
        self._metrics_written += 1
        return self._metrics_written

    def _write(self, **changes: object) -> None:
        self.check()
        body = self.body.model_copy(update=changes)
        self._store.objects.put(lease_key(self.work_root, self.number), to_bytes(body))
        self.body = body


def to_bytes(body: LeaseBody) -> bytes:
    return body.model_dump_json(indent=1).encode()


def acquire(store: Store, work_root: str, digest: str, holder: Holder) -> Lease:
    """Acquire the lease on `work_root` for task `digest`. Raises LeaseHeld, which names the holder, its host and start time."""
    while True:
        last = _last(store, work_root)
        if last is not None and not _may_follow(last, holder, store.clock()):
            raise LeaseHeld(_held(work_root, last))
        body = _new_body(1 if last is None else last.number + 1, digest, holder, store.clock())
        if create_once(store.objects, lease_key(work_root, body.number), to_bytes(body)) == to_bytes(body):
            return Lease(store, work_root, body)


def _new_body(number: int, digest: str, holder: Holder, now: datetime) -> LeaseBody:
    machine, pid = current_host(), getpid()
    return LeaseBody(
        number=number, digest=digest, study=holder.study, run_number=holder.run_number, workflow_node=holder.workflow_node,
        host=holder.host or machine.name, boot=machine.boot, pid=pid, pid_started=start_time(pid), gpus=holder.gpus,
        lease_seconds=holder.lease_seconds, start=now, renewed=now, nonce=uuid.uuid4().hex,
    )  # fmt: skip


def _held(work_root: str, body: LeaseBody) -> str:
    node = f", node {body.workflow_node}" if body.workflow_node else ""
    return (
        f"{work_root}: attempt {body.number} holds the lease: study {body.study or '?'}, process {body.pid} on {body.host}{node}, "
        f"since {body.start:%Y-%m-%d %H:%M:%S} UTC, last step {body.renewed:%H:%M:%S}; "
        f"the lease expires {body.lease_seconds + CLOCK_MARGIN.total_seconds():.0f} s after the last step"
    )


def _may_follow(last: LeaseBody, holder: Holder, now: datetime) -> bool:
    return not is_live(last, now) or _is_later_retry(holder.workflow_node, last.workflow_node)


def _is_later_retry(node: str, holder_node: str) -> bool:
    later, earlier = _RETRY_OF_NODE.match(node), _RETRY_OF_NODE.match(holder_node)
    return bool(later and earlier and later[1] == earlier[1] and int(later[2]) > int(earlier[2]))


def is_live(body: LeaseBody, now: datetime, this_host: Host | None = None) -> bool:
    """Return whether the holder may still be running: not ended, not expired, and not a dead process of this host."""
    if body.ended is not None:
        return False
    if now - body.renewed > timedelta(seconds=body.lease_seconds) + CLOCK_MARGIN:
        return False
    same_machine = body.boot == (this_host or current_host()).boot
    return not (same_machine and start_time(body.pid) != body.pid_started)


def record_end(store: Store, work_root: str, number: int, how: str, code: int, message: str) -> None:
    """Record the end of an attempt whose process was killed; no change if an end is recorded.

    The caller must have observed that the process no longer runs. Raises KeyMissing, Damaged.
    """
    key = lease_key(work_root, number)
    body = parse_lease(store.objects.get(key), key)
    if body.ended is None:
        ended = Ended(at=body.renewed, how=how, code=code, message=message)
        store.objects.put(key, to_bytes(body.model_copy(update={"ended": ended})))


def history(store: Store, work_root: str) -> list[LeaseBody]:
    """Return every lease ever acquired on `work_root`, sorted by number."""
    stats = sorted(_lease_stats(store, work_root), key=lambda pair: pair[0])
    return [_read(store, number, stat) for number, stat in stats]


def _last(store: Store, work_root: str) -> LeaseBody | None:
    newest = max(_lease_stats(store, work_root), key=lambda pair: pair[0], default=None)
    return None if newest is None else _read(store, *newest)


def _lease_stats(store: Store, work_root: str) -> list[tuple[int, Stat]]:
    stats = store.objects.list(leases_prefix(work_root))
    return [(number, stat) for stat in stats if (number := lease_number(stat.key)) is not None]


def _read(store: Store, number: int, stat: Stat) -> LeaseBody:
    try:
        return parse_lease(store.objects.get(stat.key), stat.key)
    except Damaged:
        return _unreadable(number, stat)


def parse_lease(body: bytes, key: str) -> LeaseBody:
    """Return the lease in the file at `key`. Raises Damaged, also for one with the number of another file."""
    lease = parse_model(LeaseBody, body, key, "a lease")
    if lease.number != lease_number(key):
        raise Damaged(f"{key} is not a lease: its number is {lease.number}")
    return lease


def _unreadable(number: int, stat: Stat) -> LeaseBody:
    """Return a substitute for an unreadable lease: it keeps its number and expires by the object's modification time."""
    return LeaseBody(
        number=number, digest="", study="", run_number=0, workflow_node="", host="", boot="", pid=0, pid_started=0, gpus=0,
        lease_seconds=Holder().lease_seconds, start=stat.modified, renewed=stat.modified, nonce="",
    )  # fmt: skip


def failures(bodies: list[LeaseBody], digest: str, run_number: int) -> int:
    """Return how often task `digest` failed in this run. `bodies`: the history without an attempt that is still running.

    Each exit code other than success, stop or kill counts as one failure; so do `SILENT_ENDS` attempts that ended without a reason or a
    new checkpoint.
    """
    attempts = [body for body in bodies if body.digest == digest and body.run_number == run_number]
    failed = sum(body.ended is not None and meaning_of(body.ended.code).is_failure for body in attempts)
    silent = sum(_ended_silently(body, bodies) for body in attempts)
    return failed + silent // SILENT_ENDS


def _ended_silently(body: LeaseBody, bodies: list[LeaseBody]) -> bool:
    if body.ended is not None and body.ended.code not in (KILLED, TERMINATED):
        return False
    was_resumed = any(later.number > body.number and later.from_attempt == body.number for later in bodies)
    return body.checkpoint is None and not was_resumed


def tokens_lost(before: Sequence[LeaseBody], start: int, end: int) -> int:
    """Return the tokens trained twice by an attempt that resumed at `start` and whose task ends at `end`.

    `before`: the earlier attempts, in order. Only the last attempt that started is considered: each attempt counts its own losses.
    """
    reached = next((body.tokens for body in reversed(before) if body.took_up), start)
    return max(0, min(reached, end) - start)


def seconds(body: LeaseBody) -> float:
    """Return the attempt's duration in seconds, up to its end or last renewal; multiplied by `gpus`, these are GPU-seconds."""
    return max(0.0, ((body.ended.at if body.ended else body.renewed) - body.start).total_seconds())
