"""Leases: acquisition, takeover, renewal and the counting of failures."""

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.contract.vocabulary import CLOCK_MARGIN
from orchestrator.errors import LeaseHeld, LeaseLost, StoreUnavailable
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import lease_key
from orchestrator.store.leases import (
    RENEW_SECONDS,
    SILENT_ENDS,
    Ended,
    Holder,
    LeaseBody,
    acquire,
    failures,
    history,
    is_live,
    record_end,
    seconds,
    to_bytes,
    tokens_lost,
)
from orchestrator.store.memory import Fault, InMemoryObjects, clock_off_by, in_memory_store
from orchestrator.store.processes import Host, current_host, start_time
from tests.store.samples import T0, Clock

ROOT = "trajectories/aa"
HOLDER = Holder(study="to-code", run_number=2, workflow_node="", host="node-7", gpus=8, lease_seconds=600)
EXPIRY = HOLDER.lease_seconds + CLOCK_MARGIN.total_seconds()


def other_lease(number: int = 1, **changes: object) -> LeaseBody:
    """A live lease held by another machine."""
    body = LeaseBody(
        number=number, digest="d", study="s", run_number=1, workflow_node="", host="other", boot="other boot", pid=17, pid_started=17,
        gpus=1, lease_seconds=600, start=T0, renewed=T0, nonce=f"n{number}",
    )  # fmt: skip
    return body.model_copy(update=changes)


def put(store: Store, body: LeaseBody) -> None:
    store.objects.put(lease_key(ROOT, body.number), to_bytes(body))


def test_first_lease_describes_its_holder(store: Store) -> None:
    lease = acquire(store, ROOT, "digest", HOLDER)
    assert lease.number == 1
    assert lease.key("checkpoints", "100", "x") == "trajectories/aa/attempts/000001/checkpoints/100/x"
    (body,) = history(store, ROOT)
    assert body == lease.body
    assert (body.study, body.run_number, body.host, body.gpus, body.start, body.ended) == ("to-code", 2, "node-7", 8, T0, None)
    assert (body.boot, body.pid_started) == (current_host().boot, start_time(body.pid))


def test_live_lease_cannot_be_acquired(store: Store) -> None:
    acquire(store, ROOT, "digest", HOLDER)
    with pytest.raises(LeaseHeld, match=r"attempt 1 holds the lease: study to-code, process \d+ on node-7.* expires 660 s after") as caught:
        acquire(store, ROOT, "digest", HOLDER)
    assert caught.value.retryable


def test_ended_lease_is_followed_immediately(store: Store) -> None:
    acquire(store, ROOT, "digest", HOLDER).end("stopped", 75)
    lease = acquire(store, ROOT, "other digest", HOLDER)
    assert (lease.number, [body.digest for body in history(store, ROOT)]) == (2, ["digest", "other digest"])
    first = history(store, ROOT)[0]
    assert first.ended == Ended(at=T0, how="stopped", code=75)


THIS_HOST = current_host()
NO_PID = 2**22 + 1
"""Above the largest pid of Linux."""


@pytest.mark.parametrize(
    ("last", "holder", "later", "is_acquired"),
    [
        pytest.param(other_lease(), HOLDER, 0, False, id="held by another machine"),
        pytest.param(other_lease(), HOLDER, EXPIRY, False, id="within the clock margin"),
        pytest.param(other_lease(), HOLDER, EXPIRY + 1, True, id="expired"),
        pytest.param(other_lease(renewed=T0 + timedelta(seconds=60)), HOLDER, EXPIRY + 1, False, id="renewed"),
        pytest.param(other_lease(renewed=T0 + timedelta(hours=1)), HOLDER, 0, False, id="its clock is ahead"),
        pytest.param(other_lease(lease_seconds=5), HOLDER, 66, True, id="duration of its own lease"),
        pytest.param(other_lease(workflow_node="wf/train(0)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, True, id="later retry"),
        pytest.param(
            other_lease(workflow_node="wf/train(9)"), replace(HOLDER, workflow_node="wf/train(10)"), 0, True, id="compared as numbers"
        ),
        pytest.param(other_lease(workflow_node="wf/train(1)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, False, id="the same retry"),
        pytest.param(
            other_lease(workflow_node="wf/train(2)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, False, id="an earlier retry"
        ),
        pytest.param(
            other_lease(workflow_node="wf/train(0)"), replace(HOLDER, workflow_node="wg/train(1)"), 0, False, id="another Workflow"
        ),
        pytest.param(other_lease(workflow_node="node"), replace(HOLDER, workflow_node="node"), 0, False, id="no number, no retry"),
        pytest.param(other_lease(boot=THIS_HOST.boot, pid=NO_PID), HOLDER, 0, True, id="dead process"),
        pytest.param(other_lease(boot=THIS_HOST.boot, pid=1, pid_started=-5), HOLDER, 0, True, id="reused pid"),
        pytest.param(other_lease(boot=THIS_HOST.boot, pid=1, pid_started=start_time(1)), HOLDER, 0, False, id="live process"),
        pytest.param(other_lease(boot="before", host=THIS_HOST.name, pid=NO_PID), HOLDER, 0, False, id="another boot or container"),
        pytest.param(other_lease(ended=Ended(at=T0, how="failed", code=1)), HOLDER, 0, True, id="ended"),
    ],
)
def test_takeover_conditions(last: LeaseBody, holder: Holder, later: float, is_acquired: bool) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    put(store, last)
    clock.advance(later)
    if is_acquired:
        assert acquire(store, ROOT, "d", holder).number == 2
    else:
        with pytest.raises(LeaseHeld, match="attempt 1 holds"):
            acquire(store, ROOT, "d", holder)


def test_lease_of_a_killed_process_can_be_acquired(tmp_path: Path) -> None:
    code = """
import signal, sys
from orchestrator.store import open_store
from orchestrator.store.leases import Holder, acquire
acquire(open_store(sys.argv[1]), "trajectories/aa", "d", Holder(lease_seconds=86400))
print("acquired", flush=True)
signal.pause()
"""
    store = open_store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LeaseHeld, match=f"process {process.pid} on {current_host().name}"):
            acquire(store, ROOT, "d", HOLDER)
        process.kill()
        while start_time(process.pid) >= 0:  # a zombie counts as dead
            pass
        assert acquire(store, ROOT, "d", HOLDER).number == 2


@pytest.mark.parametrize("when", ["lost reply", "after", "before"])
def test_holder_keeps_its_lease_after_a_lost_reply(when: str) -> None:
    store = in_memory_store([Fault("create", "*/lease/*", when)])  # type: ignore[arg-type]
    lease = acquire(store, ROOT, "d", HOLDER)
    assert lease.number == 1
    assert [body.nonce for body in history(store, ROOT)] == [lease.body.nonce]


def test_loser_of_a_race_learns_the_holder() -> None:
    class LosingRace(InMemoryObjects):
        def create(self, key: str, body: bytes) -> None:
            if key not in self._bodies:
                super().create(key, to_bytes(other_lease(host="faster", renewed=clock())))
            super().create(key, body)

    clock = Clock()
    with pytest.raises(LeaseHeld, match="on faster"):
        acquire(in_memory_store(objects=LosingRace(), clock=clock), ROOT, "d", HOLDER)


def test_only_progress_renews_the_lease(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    lease.start_from(100)
    clock.advance(60)
    lease.renew(100)
    assert history(store, ROOT)[0].renewed == T0
    lease.renew(200)
    assert (history(store, ROOT)[0].renewed, history(store, ROOT)[0].tokens) == (T0 + timedelta(seconds=60), 200)


def test_lease_of_a_hung_run_expires(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    other = other_machine(store, clock)
    for _ in range(20):
        clock.advance(60)
        lease.renew(0)
    assert not is_live(history(store, ROOT)[0], clock())
    assert acquire(other, ROOT, "d", HOLDER).number == 2


def other_machine(store: Store, clock: Clock) -> Store:
    """A store with the same objects, as opened by another machine."""
    return Store(store.objects, store.url, clock)


def test_uncounted_progress_renews_the_lease(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    lease.start_from(100)
    clock.advance(60)
    lease.renew_uncounted()
    assert (history(store, ROOT)[0].renewed, history(store, ROOT)[0].tokens) == (T0 + timedelta(seconds=60), 100)


def test_renewals_are_rate_limited() -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = acquire(store, ROOT, "d", HOLDER)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.log.clear()
    for step in range(1, 101):
        clock.advance(RENEW_SECONDS / 10)
        lease.renew(step)
    assert [name for name, _ in store.objects.log] == ["stat", "put"] * 10


def test_renewal_after_a_takeover_raises_lease_lost(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    acquire(store, ROOT, "d", HOLDER)
    with pytest.raises(LeaseLost, match="attempt 1 lost the lease to attempt 2; its later writes are ignored"):
        lease.renew(10)
    with pytest.raises(LeaseLost):
        lease.check()
    with pytest.raises(LeaseLost):
        lease.start_from(0)


def test_end_after_a_takeover_changes_only_the_own_lease(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    second = acquire(store, ROOT, "d", HOLDER)
    lease.end("lost", 69)
    assert [body.ended is None for body in history(store, ROOT)] == [False, True]
    second.check()


def test_clock_skew_never_gives_two_holders() -> None:
    clock = Clock()
    ours = in_memory_store(clock=clock)
    assert isinstance(ours.objects, InMemoryObjects)
    theirs = in_memory_store(objects=ours.objects, clock=clock_off_by(timedelta(hours=1), clock))
    first = acquire(ours, ROOT, "d", HOLDER)
    second = acquire(theirs, ROOT, "d", HOLDER)  # an hour ahead, so the lease appears expired
    clock.advance(60)
    with pytest.raises(LeaseLost):
        first.renew(10)
    second.renew(10)
    with pytest.raises(LeaseHeld):
        acquire(ours, ROOT, "d", HOLDER)


def test_store_outage_is_tolerated_until_the_lease_expires() -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = acquire(store, ROOT, "d", HOLDER)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("*", "*", "before", times=-1, message="unreachable"))
    clock.advance(HOLDER.lease_seconds)
    lease.renew(10)
    clock.advance(1)
    with pytest.raises(StoreUnavailable, match="unreachable"):
        lease.renew(20)
    store.objects.faults.clear()
    lease.renew(30)
    assert history(store, ROOT)[0].tokens == 30


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"number": 1}'])
def test_unreadable_lease_keeps_its_number_and_expires(broken: bytes) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    store.objects.put(lease_key(ROOT, 1), broken)
    with pytest.raises(LeaseHeld):
        acquire(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    assert acquire(store, ROOT, "d", HOLDER).number == 2
    assert [body.number for body in history(store, ROOT)] == [1, 2]


@pytest.mark.parametrize("number", [0, 7])
def test_lease_with_the_number_of_another_file_is_unreadable(number: int) -> None:
    """Its number would be taken for the last one: acquiring the next would fail again and again."""
    clock = Clock()
    store = in_memory_store(clock=clock)
    store.objects.put(lease_key(ROOT, 1), to_bytes(other_lease(number, ended=Ended(at=T0, how="done", code=0))))
    clock.advance(EXPIRY + 1)
    assert [body.number for body in history(store, ROOT)] == [1]
    assert acquire(store, ROOT, "d", HOLDER).number == 2


def test_history_is_sorted_by_number_beyond_six_digits(store: Store) -> None:
    for number in (999_999, 1_000_000, 2):
        put(store, other_lease(number, ended=Ended(at=T0, how="done", code=0)))
    assert [body.number for body in history(store, ROOT)] == [2, 999_999, 1_000_000]
    assert acquire(store, ROOT, "d", HOLDER).number == 1_000_001


def ended(number: int, code: int, **changes: object) -> LeaseBody:
    return other_lease(number, ended=Ended(at=T0 + timedelta(seconds=90), how="", code=code), **changes)


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([ended(1, 1), ended(2, 2), ended(3, 78)], 3, id="failures"),
        pytest.param([ended(1, 0), ended(2, 69), ended(3, 75), ended(4, 137), ended(5, 143)], 0, id="no failures"),
        pytest.param([ended(1, 1, digest="other"), ended(2, 1, run_number=2)], 0, id="of another task or run"),
        pytest.param([other_lease(n) for n in range(SILENT_ENDS - 1)], 0, id="nine ends without a reason"),
        pytest.param([other_lease(n) for n in range(SILENT_ENDS)], 1, id="ten ends without a reason"),
        pytest.param([ended(n, 137) for n in range(SILENT_ENDS)], 1, id="ten kills"),
        pytest.param([other_lease(n, checkpoint=100) for n in range(SILENT_ENDS)], 0, id="each with a new checkpoint"),
        pytest.param([other_lease(n, from_attempt=n - 1) for n in range(SILENT_ENDS)], 0, id="each resumed from the one before"),
    ],
)
def test_counting_of_failures(bodies: list[LeaseBody], expected: int) -> None:
    assert failures(bodies, "d", 1) == expected


def resumed(number: int, tokens: int) -> LeaseBody:
    return other_lease(number, took_up=True, tokens=tokens)


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        pytest.param([], 0, id="the first attempt"),
        pytest.param([resumed(1, 90)], 30, id="one trained further"),
        pytest.param([resumed(1, 60)], 0, id="one stopped at the same point"),
        pytest.param([resumed(1, 90), resumed(2, 70)], 10, id="tokens lost by an earlier attempt"),
        pytest.param([resumed(1, 90), other_lease(2), other_lease(3)], 30, id="later attempts never started"),
        pytest.param([other_lease(1)], 0, id="none started"),
        pytest.param([resumed(1, 500)], 40, id="one with a longer horizon"),
        pytest.param([resumed(1, 20)], 0, id="one at fewer tokens"),
    ],
)
def test_tokens_lost_are_those_trained_twice(before: list[LeaseBody], lost: int) -> None:
    """The attempt resumes at 60 tokens; its task ends at 100."""
    assert tokens_lost(before, 60, 100) == lost


@pytest.mark.parametrize(
    ("body", "spent"),
    [
        (other_lease(), 0),
        (other_lease(renewed=T0 + timedelta(seconds=30)), 30),
        (ended(1, 0, renewed=T0 + timedelta(seconds=30)), 90),
        (other_lease(renewed=T0 - timedelta(seconds=5)), 0),
    ],
)
def test_duration_ends_at_the_end_or_the_last_renewal(body: LeaseBody, spent: float) -> None:
    assert seconds(body) == spent


def test_liveness_is_evaluated_for_any_host() -> None:
    body = other_lease(boot="boot of node 7", pid=NO_PID)
    assert is_live(body, T0, Host("node-7", "another boot"))
    assert not is_live(body, T0, Host("node-7", "boot of node 7"))


def test_end_records_the_last_progress(store: Store, clock: Clock) -> None:
    lease = acquire(store, ROOT, "d", HOLDER)
    lease.renew(100)
    clock.advance(1)
    lease.renew(200)
    lease.end("stopped", 75)
    assert history(store, ROOT)[0].tokens == 200


def test_record_end_ends_the_lease_of_a_dead_process_once(store: Store, clock: Clock) -> None:
    lease = acquire(store, "tasks/d", "d", Holder(study="s"))
    clock.advance(300)
    record_end(store, "tasks/d", lease.number, "refused", 78, "OOMKilled")
    record_end(store, "tasks/d", lease.number, "failed", 1, "a second reason")
    (body,) = history(store, "tasks/d")
    assert body.ended == Ended(at=body.renewed, how="refused", code=78, message="OOMKilled")
    assert seconds(body) == 0, "the time after the last renewal is not counted"
    assert acquire(store, "tasks/d", "d", Holder()).number == 2
