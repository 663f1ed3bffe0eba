"""What a store says of the tasks of its studies: what is done, who works, and what it has cost.

One ledger a store. A history of leases is read again only when something that it depends on has changed: tasks at work every few seconds,
finished ones once more and then never.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from sys import intern
from typing import Final

from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import ExitCode
from orchestrator.errors import KeyMissing
from orchestrator.reconcile.observe import LeaseSeen
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import CLOCK_MARGIN, LeaseBody, end_for, history, seconds
from orchestrator.store.maintenance import Look, last_look
from orchestrator.store.records import done

# A lease is renewed every five seconds at most (orchestrator.store.leases.RENEW_SECONDS)
READ_AGAIN: Final = timedelta(seconds=10)
# Clearing runs once a day or so
LOOK_AGAIN: Final = timedelta(minutes=5)
# Each history costs a listing and a read a lease; a store answers some dozens at once
_THREADS: Final = 16
_CAUSES: Final[dict[int, str]] = {ExitCode.DONE: "done", ExitCode.STOPPED: "stopped", 137: "killed", 143: "killed"}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What is kept of a lease. `expires`: when its holder counts as gone, None once it has ended."""

    digest: str
    study: str
    run_number: int
    renewed: datetime
    expires: datetime | None
    code: int | None
    message: str
    gpu_seconds: float
    seconds: float
    trained: int
    reached: int
    start: datetime
    number: int


@dataclass(slots=True)
class _Account:
    """`depends_on`: by study, since two that share a trajectory know of different tasks on it."""

    attempts: tuple[_Attempt, ...]
    depends_on: dict[str, Hashable]
    read_at: datetime


class Ledger:
    """One store's facts. Not shared between threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: frozenset[str] = frozenset()
        self.created: set[str] = set()
        """Digests whose `task.json` is known to be there."""
        self.retention: Look | None = None
        """What the last clearing of the store found."""
        self._accounts: dict[str, _Account] = {}
        self._looked_at: datetime | None = None

    def read_done(self) -> None:
        """One listing; every round begins with it. Raises StoreUnavailable."""
        self.done = frozenset(intern(digest) for digest in done(self.store))

    def read_retention(self, now: datetime) -> None:
        """Read it again when some minutes have gone. Raises StoreUnavailable."""
        if self._looked_at is None or now - self._looked_at >= LOOK_AGAIN:
            self.retention, self._looked_at = last_look(self.store), now

    def read_leases(self, study: str, roots: Mapping[str, Hashable], hot: Iterable[str], now: datetime) -> None:
        """Read the histories that may have changed.

        `roots`: work root -> what its history depends on, as far as `study` knows, read again when that differs. `hot`: roots at work,
        read again every few seconds. Raises StoreUnavailable.
        """
        busy = set(hot)
        stale = [root for root, depends_on in roots.items() if self._is_stale(study, root, depends_on, root in busy, now)]
        if not stale:
            return
        with ThreadPoolExecutor(min(_THREADS, len(stale))) as threads:
            for root, bodies in zip(stale, threads.map(lambda root: history(self.store, root), stale), strict=True):
                before = self._accounts.get(root)
                depends_on = {**(before.depends_on if before else {}), study: roots[root]}
                self._accounts[root] = _Account(tuple(map(_attempt, bodies)), depends_on, now)

    def _is_stale(self, study: str, root: str, depends_on: Hashable, is_hot: bool, now: datetime) -> bool:
        account = self._accounts.get(root)
        if account is None or account.depends_on.get(study) != depends_on:
            return True
        live = any(attempt.expires is not None and attempt.expires > now for attempt in account.attempts)
        return (is_hot or live) and now - account.read_at >= READ_AGAIN

    def give_up(self, root: str, attempt: int, reason: str) -> None:
        """Write into an attempt's lease that its task is tried no more. Raises StoreError."""
        self._accounts[root].depends_on.clear()
        with suppress(KeyMissing):  # somebody has cleared it away
            end_for(self.store, root, attempt, ExitCode.REFUSED.name.lower(), ExitCode.REFUSED, reason)

    def leases(self, plan: Plan, now: datetime) -> dict[str, LeaseSeen]:
        """The last lease of every task of the plan that was ever worked on."""
        found: dict[str, LeaseSeen] = {}
        for digest, task in plan.tasks.items():
            account = self._accounts.get(work_root(task.kind, task.work))
            own = [attempt for attempt in account.attempts if attempt.digest == digest] if account else []
            if own:
                found[digest] = _seen(own, now)
        return found

    def gpu_seconds(self, roots: Iterable[str], study: str) -> float:
        """What a study's attempts on these roots have cost."""
        return sum(attempt.gpu_seconds for root in roots for attempt in self._attempts(root) if attempt.study == study)

    def gpu_seconds_of_task(self, root: str, digest: str) -> float:
        return sum(attempt.gpu_seconds for attempt in self._attempts(root) if attempt.digest == digest)

    def highest_run(self, roots: Iterable[str], study: str, before: datetime) -> int:
        """The highest run number of a study's attempts on these roots that began before a time; 0 without any."""
        own = (attempt for root in roots for attempt in self._attempts(root) if attempt.study == study)
        return max((attempt.run_number for attempt in own if attempt.start < before), default=0)

    def causes(self, roots: Iterable[str], study: str) -> dict[str, float]:
        """GPU-seconds by how the attempts ended."""
        found: dict[str, float] = defaultdict(float)
        for root in roots:
            for attempt in self._attempts(root):
                if attempt.study == study:
                    found[_cause(attempt)] += attempt.gpu_seconds
        return found

    def _attempts(self, root: str) -> tuple[_Attempt, ...]:
        account = self._accounts.get(root)
        return account.attempts if account else ()


def _attempt(body: LeaseBody) -> _Attempt:
    """Whether a holder lives is told by time alone: its process is in another pod."""
    expires = None if body.ended else body.renewed + timedelta(seconds=body.lease_seconds) + CLOCK_MARGIN
    return _Attempt(
        digest=intern(body.digest),
        study=intern(body.study),
        run_number=body.run_number,
        renewed=body.renewed,
        expires=expires,
        code=body.ended.code if body.ended else None,
        message=body.ended.message if body.ended else "",
        gpu_seconds=seconds(body) * body.gpus,
        seconds=seconds(body),
        trained=max(0, body.tokens - body.from_tokens),
        reached=body.tokens,
        start=body.start,
        number=body.number,
    )


def _seen(attempts: list[_Attempt], now: datetime) -> LeaseSeen:
    last = attempts[-1]
    return LeaseSeen(
        study=last.study,
        run_number=last.run_number,
        is_live=last.expires is not None and last.expires > now,
        renewed=last.renewed,
        code=last.code,
        message=last.message,
        gpu_seconds=sum(attempt.gpu_seconds for attempt in attempts),
        seconds=sum(attempt.seconds for attempt in attempts),
        trained=sum(attempt.trained for attempt in attempts),
        reached=last.reached,
        start=last.start,
        number=last.number,
    )


def _cause(attempt: _Attempt) -> str:
    """`unended`: at work, or gone without a word."""
    return "unended" if attempt.code is None else _CAUSES.get(attempt.code, "failed")
