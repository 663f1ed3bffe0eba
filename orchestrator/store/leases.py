"""Who works on what: numbered leases, their renewal by progress, and their account of time spent.

The trainer takes one before it writes anything; local run, status and controller read the history. Clocks only decide when to try: what
counts is decided by create-only writes and fencing numbers.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import getpid
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.contract.vocabulary import ExitCode
from orchestrator.errors import Damaged, KeyMissing, LeaseHeld, LeaseLost, StoreUnavailable
from orchestrator.store.addresses import attempt_key, lease_key, lease_number, leases_prefix
from orchestrator.store.objects import Stat, Store, create_once
from orchestrator.store.pointers import read_pointer
from orchestrator.store.processes import Host, here, started

# Clocks of machines that run NTP differ by milliseconds; this forgives a minute before a lease counts as expired.
CLOCK_MARGIN: Final = timedelta(seconds=60)
RENEW_SECONDS: Final = 5.0
"""At most one renewal in so many seconds (a quarter of the lease, if that is less)."""

SILENT_ENDS: Final = 10
"""So many ends without a word or a new checkpoint count as one failure."""

_NO_FAILURE: Final = (ExitCode.DONE, ExitCode.HELD, ExitCode.STOPPED)
_KILLED: Final = (137, 143)
_RETRY_OF_NODE: Final = re.compile(r"^(.+)\((\d+)\)$")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asks for a lease. `workflow_node`: as Argo names a retry, `node(2)`, so that a later one can be told; "" without a Workflow."""

    study: str = ""
    run_number: int = 1
    workflow_node: str = ""
    host: str = ""
    gpus: int = 0
    lease_seconds: float = 600


class Ended(BaseModel):
    """How an attempt ended, in its own words. `code` is an ExitCode."""

    model_config = ConfigDict(frozen=True)
    at: datetime
    how: str
    code: int
    message: str = ""


class LeaseBody(BaseModel):
    """What a lease says. `tokens`: progress at the last renewal. `from_tokens`, `from_attempt`: the checkpoint that was taken up.

    `took_up`: whether it has said where it starts. `checkpoint`: the highest one it has written. `pid_started`, `boot`: see `processes`.
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
    start: datetime
    renewed: datetime
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
        """The fencing number, which is the attempt's."""
        return self.body.number

    def key(self, *parts: str) -> str:
        """A key in this attempt's own folder."""
        return attempt_key(self.work_root, self.number, *parts)

    def renew(self, tokens: int) -> None:
        """Say that a step was made; `tokens` is progress in the task's own unit and must have grown. Raises LeaseLost.

        A store that is away is forgiven until the lease would have expired; then its StoreUnavailable is raised.
        """
        if tokens > self.body.tokens:
            self._renew(tokens)

    def renew_uncounted(self) -> None:
        """Say that something was done that counts no tokens: a file was fetched, for example. Raises as `renew` does."""
        self._renew(self.body.tokens)

    def _renew(self, tokens: int) -> None:
        if not self._is_due():
            # told at the end if not before
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
        """Say which checkpoint of the trajectory this attempt takes up, 0 for its start. Raises LeaseLost."""
        self._write(from_tokens=tokens, tokens=tokens, from_attempt=self._attempt_behind(tokens), took_up=True, renewed=self._store.clock())

    def _attempt_behind(self, tokens: int) -> int | None:
        try:
            return read_pointer(self._store, self.work_root, tokens).attempt if tokens else None
        except (KeyMissing, Damaged):
            return None

    def note_checkpoint(self, tokens: int) -> None:
        """Remember that a checkpoint was written; the next renewal tells it."""
        self.body = self.body.model_copy(update={"checkpoint": tokens})

    def end(self, how: str, code: int, message: str = "") -> None:
        """Give the lease back and say how it went. When it has been lost nothing is changed but its own account."""
        now = self._store.clock()
        ended = Ended(at=now, how=how, code=code, message=message)
        self.body = self.body.model_copy(update={"ended": ended})
        self._store.objects.put(lease_key(self.work_root, self.number), to_bytes(self.body))

    def check(self) -> None:
        """Raises LeaseLost when a later attempt has taken over."""
        try:
            self._store.objects.stat(lease_key(self.work_root, self.number + 1))
        except KeyMissing:
            return
        later = self.number + 1
        raise LeaseLost(f"{self.work_root}: attempt {self.number} has been overtaken by attempt {later}; nothing it writes now counts")

    def next_metrics(self) -> int:
        """Numbers the tables of metrics that this attempt writes."""
        self._metrics_written += 1
        return self._metrics_written

    def _write(self, **changes: object) -> None:
        self.check()
        body = self.body.model_copy(update=changes)
        self._store.objects.put(lease_key(self.work_root, self.number), to_bytes(body))
        self.body = body


def to_bytes(body: LeaseBody) -> bytes:
    return body.model_dump_json(indent=1).encode()


def take(store: Store, work_root: str, digest: str, holder: Holder) -> Lease:
    """Take the lease on `work_root` to work on task `digest`. Raises LeaseHeld, whose message says by whom, since when and where."""
    while True:
        last = _last(store, work_root)
        if last is not None and not _may_follow(last, holder, store.clock()):
            raise LeaseHeld(_held(work_root, last))
        body = _new_body(1 if last is None else last.number + 1, digest, holder, store.clock())
        stands = create_once(store.objects, lease_key(work_root, body.number), to_bytes(body))
        if stands == to_bytes(body):
            return Lease(store, work_root, body)


def _new_body(number: int, digest: str, holder: Holder, now: datetime) -> LeaseBody:
    machine, pid = here(), getpid()
    return LeaseBody(
        number=number, digest=digest, study=holder.study, run_number=holder.run_number, workflow_node=holder.workflow_node,
        host=holder.host or machine.name, boot=machine.boot, pid=pid, pid_started=started(pid), gpus=holder.gpus,
        lease_seconds=holder.lease_seconds, start=now, renewed=now, nonce=uuid.uuid4().hex,
    )  # fmt: skip


def _held(work_root: str, body: LeaseBody) -> str:
    node = f", node {body.workflow_node}" if body.workflow_node else ""
    return (
        f"{work_root}: attempt {body.number} holds the lease: study {body.study or '?'}, process {body.pid} on {body.host}{node}, "
        f"since {body.start:%Y-%m-%d %H:%M:%S} UTC, last step {body.renewed:%H:%M:%S}; "
        f"it is free {body.lease_seconds + CLOCK_MARGIN.total_seconds():.0f} s after its last step"
    )


def _may_follow(last: LeaseBody, holder: Holder, now: datetime) -> bool:
    return not is_live(last, now) or _is_later_retry(holder.workflow_node, last.workflow_node)


def _is_later_retry(ours: str, theirs: str) -> bool:
    mine, other = _RETRY_OF_NODE.match(ours), _RETRY_OF_NODE.match(theirs)
    return bool(mine and other and mine[1] == other[1] and int(mine[2]) > int(other[2]))


def is_live(body: LeaseBody, now: datetime, this_host: Host | None = None) -> bool:
    """Whether its holder may still be at work: not ended, not expired (with a margin), and not a process of this host that is gone."""
    if body.ended is not None:
        return False
    if now - body.renewed > timedelta(seconds=body.lease_seconds) + CLOCK_MARGIN:
        return False
    same_machine = body.boot == (this_host or here()).boot
    return not (same_machine and started(body.pid) != body.pid_started)


def end_for(store: Store, work_root: str, number: int, how: str, code: int, message: str) -> None:
    """Say how an attempt ended whose process was killed and could not. Only for whoever has seen that it is gone; said once."""
    key = lease_key(work_root, number)
    body = LeaseBody.model_validate_json(store.objects.get(key))
    if body.ended is None:
        ended = Ended(at=body.renewed, how=how, code=code, message=message)
        store.objects.put(key, to_bytes(body.model_copy(update={"ended": ended})))


def history(store: Store, work_root: str) -> list[LeaseBody]:
    """Every lease that was ever taken on it, by number."""
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
        return LeaseBody.model_validate_json(store.objects.get(stat.key))
    except ValidationError:
        return _unreadable(number, stat)


def _unreadable(number: int, stat: Stat) -> LeaseBody:
    """A lease whose body is broken keeps its number and expires by the store's own time stamp."""
    return LeaseBody(
        number=number, digest="", study="", run_number=0, workflow_node="", host="", boot="", pid=0, pid_started=0, gpus=0,
        lease_seconds=Holder().lease_seconds, start=stat.modified, renewed=stat.modified, nonce="",
    )  # fmt: skip


def failures(bodies: list[LeaseBody], digest: str, run_number: int) -> int:
    """How often task `digest` has failed in this run; `bodies` is the history without an attempt that is still at work.

    An end with an exit code that is no success, no stop and no kill counts one; so do `SILENT_ENDS` ends without a word or a new
    checkpoint.
    """
    ours = [body for body in bodies if body.digest == digest and body.run_number == run_number]
    failed = sum(body.ended is not None and body.ended.code not in (*_NO_FAILURE, *_KILLED) for body in ours)
    silent = sum(_ended_silently(body, bodies) for body in ours)
    return failed + silent // SILENT_ENDS


def _ended_silently(body: LeaseBody, bodies: list[LeaseBody]) -> bool:
    if body.ended is not None and body.ended.code not in _KILLED:
        return False
    went_on = any(later.number > body.number and later.from_attempt == body.number for later in bodies)
    return body.checkpoint is None and not went_on


def tokens_lost(before: Sequence[LeaseBody], start: int, end: int) -> int:
    """What is trained a second time by an attempt that took up at `start` and whose task ends at `end`.

    `before`: the attempts before it, in order. The last one that took up counts: what earlier ones had trained further, it lost itself.
    """
    reached = next((body.tokens for body in reversed(before) if body.took_up), start)
    return max(0, min(reached, end) - start)


def seconds(body: LeaseBody) -> float:
    """How long the attempt worked, to its end or its last renewal; times `gpus`, GPU-seconds."""
    return max(0.0, ((body.ended.at if body.ended else body.renewed) - body.start).total_seconds())
