"""Who may work, who may take over, and what is counted."""

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.errors import LeaseHeld, LeaseLost, StoreUnavailable
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import lease_key
from orchestrator.store.leases import (
    CLOCK_MARGIN,
    RENEW_SECONDS,
    SILENT_ENDS,
    Ended,
    Holder,
    LeaseBody,
    end_for,
    failures,
    history,
    is_live,
    seconds,
    take,
    to_bytes,
    tokens_lost,
)
from orchestrator.store.memory import Fault, InMemoryObjects, clock_off_by, in_memory_store
from orchestrator.store.processes import Host, here, started
from tests.store.samples import T0, Clock

ROOT = "trajectories/aa"
HOLDER = Holder(study="to-code", run_number=2, workflow_node="", host="node-7", gpus=8, lease_seconds=600)
EXPIRY = HOLDER.lease_seconds + CLOCK_MARGIN.total_seconds()


def foreign(number: int = 1, **changes: object) -> LeaseBody:
    """A lease of another machine that is at work."""
    body = LeaseBody(
        number=number, digest="d", study="s", run_number=1, workflow_node="", host="other", boot="other boot", pid=17, pid_started=17,
        gpus=1, lease_seconds=600, start=T0, renewed=T0, nonce=f"n{number}",
    )  # fmt: skip
    return body.model_copy(update=changes)


def put(store: Store, body: LeaseBody) -> None:
    store.objects.put(lease_key(ROOT, body.number), to_bytes(body))


def test_the_first_lease_says_who_works(store: Store) -> None:
    lease = take(store, ROOT, "digest", HOLDER)
    assert lease.number == 1
    assert lease.key("checkpoints", "100", "x") == "trajectories/aa/attempts/000001/checkpoints/100/x"
    (body,) = history(store, ROOT)
    assert body == lease.body
    assert (body.study, body.run_number, body.host, body.gpus, body.start, body.ended) == ("to-code", 2, "node-7", 8, T0, None)
    assert (body.boot, body.pid_started) == (here().boot, started(body.pid))


def test_a_live_lease_is_refused_with_a_word_about_its_holder(store: Store) -> None:
    take(store, ROOT, "digest", HOLDER)
    with pytest.raises(LeaseHeld, match=r"attempt 1 holds the lease: study to-code, process \d+ on node-7.* free 660 s after") as caught:
        take(store, ROOT, "digest", HOLDER)
    assert caught.value.retryable


def test_an_ended_lease_is_followed_at_once(store: Store) -> None:
    take(store, ROOT, "digest", HOLDER).end("stopped", 75)
    lease = take(store, ROOT, "other digest", HOLDER)
    assert (lease.number, [body.digest for body in history(store, ROOT)]) == (2, ["digest", "other digest"])
    first = history(store, ROOT)[0]
    assert first.ended == Ended(at=T0, how="stopped", code=75)


OURS = here()
NO_PROCESS = 2**22 + 1
"""Above the largest pid of Linux."""


@pytest.mark.parametrize(
    ("last", "holder", "later", "taken"),
    [
        pytest.param(foreign(), HOLDER, 0, False, id="at work elsewhere"),
        pytest.param(foreign(), HOLDER, EXPIRY, False, id="just not expired: clocks differ"),
        pytest.param(foreign(), HOLDER, EXPIRY + 1, True, id="expired"),
        pytest.param(foreign(renewed=T0 + timedelta(seconds=60)), HOLDER, EXPIRY + 1, False, id="renewed since"),
        pytest.param(foreign(renewed=T0 + timedelta(hours=1)), HOLDER, 0, False, id="its clock is ahead of ours"),
        pytest.param(foreign(lease_seconds=5), HOLDER, 66, True, id="its own length counts, not ours"),
        pytest.param(foreign(workflow_node="wf/train(0)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, True, id="later retry"),
        pytest.param(foreign(workflow_node="wf/train(9)"), replace(HOLDER, workflow_node="wf/train(10)"), 0, True, id="numbers, not text"),
        pytest.param(foreign(workflow_node="wf/train(1)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, False, id="the same retry"),
        pytest.param(foreign(workflow_node="wf/train(2)"), replace(HOLDER, workflow_node="wf/train(1)"), 0, False, id="an earlier retry"),
        pytest.param(foreign(workflow_node="wf/train(0)"), replace(HOLDER, workflow_node="wg/train(1)"), 0, False, id="another Workflow"),
        pytest.param(foreign(workflow_node="node"), replace(HOLDER, workflow_node="node"), 0, False, id="no number, no retry"),
        pytest.param(foreign(boot=OURS.boot, pid=NO_PROCESS), HOLDER, 0, True, id="its process is gone"),
        pytest.param(foreign(boot=OURS.boot, pid=1, pid_started=-5), HOLDER, 0, True, id="its pid is another process now"),
        pytest.param(foreign(boot=OURS.boot, pid=1, pid_started=started(1)), HOLDER, 0, False, id="its process lives"),
        pytest.param(foreign(boot="before", host=OURS.name, pid=NO_PROCESS), HOLDER, 0, False, id="another boot or container: unknown"),
        pytest.param(foreign(ended=Ended(at=T0, how="failed", code=1)), HOLDER, 0, True, id="ended"),
    ],
)
def test_when_a_lease_is_taken_over(last: LeaseBody, holder: Holder, later: float, taken: bool) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    put(store, last)
    clock.advance(later)
    if taken:
        assert take(store, ROOT, "d", holder).number == 2
    else:
        with pytest.raises(LeaseHeld, match="attempt 1 holds"):
            take(store, ROOT, "d", holder)


def test_a_process_that_was_killed_gives_its_lease_back_by_being_gone(tmp_path: Path) -> None:
    code = """
import sys, time
from orchestrator.store import open_store
from orchestrator.store.leases import Holder, take
take(open_store(sys.argv[1]), "trajectories/aa", "d", Holder(lease_seconds=86400))
print("taken", flush=True)
time.sleep(600)
"""
    store = open_store(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LeaseHeld, match=f"process {process.pid} on {here().name}"):
            take(store, ROOT, "d", HOLDER)
        process.kill()
        while started(process.pid) >= 0:  # a zombie until `wait`, and gone all the same
            pass
        assert take(store, ROOT, "d", HOLDER).number == 2


@pytest.mark.parametrize("when", ["lost reply", "after", "before"])
def test_a_lost_reply_does_not_make_the_holder_lose(when: str) -> None:
    store = in_memory_store([Fault("create", "*/lease/*", when)])  # type: ignore[arg-type]
    lease = take(store, ROOT, "d", HOLDER)
    assert lease.number == 1
    assert [body.nonce for body in history(store, ROOT)] == [lease.body.nonce]


def test_whoever_loses_the_race_for_a_number_is_told_by_whom() -> None:
    class Beaten(InMemoryObjects):
        def create(self, key: str, body: bytes) -> None:
            if key not in self._bodies:
                super().create(key, to_bytes(foreign(host="faster", renewed=clock())))
            super().create(key, body)

    clock = Clock()
    with pytest.raises(LeaseHeld, match="on faster"):
        take(in_memory_store(objects=Beaten(), clock=clock), ROOT, "d", HOLDER)


def test_only_progress_renews(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    lease.start_from(100)
    clock.advance(60)
    lease.renew(100)
    assert history(store, ROOT)[0].renewed == T0
    lease.renew(200)
    assert (history(store, ROOT)[0].renewed, history(store, ROOT)[0].tokens) == (T0 + timedelta(seconds=60), 200)


def test_a_hung_run_loses_its_lease(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    other = in_memory_or_same(store, clock)
    for _ in range(20):
        clock.advance(60)
        lease.renew(0)
    assert not is_live(history(store, ROOT)[0], clock())
    assert take(other, ROOT, "d", HOLDER).number == 2


def in_memory_or_same(store: Store, clock: Clock) -> Store:
    """The same objects as another machine sees them."""
    return Store(store.objects, store.url, clock)


def test_work_that_counts_no_tokens_renews_too(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    lease.start_from(100)
    clock.advance(60)
    lease.renew_uncounted()
    assert (history(store, ROOT)[0].renewed, history(store, ROOT)[0].tokens) == (T0 + timedelta(seconds=60), 100)


def test_renewals_are_few_and_far_between() -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = take(store, ROOT, "d", HOLDER)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.log.clear()
    for step in range(1, 101):
        clock.advance(RENEW_SECONDS / 10)
        lease.renew(step)
    assert [name for name, _ in store.objects.log] == ["stat", "put"] * 10


def test_whoever_was_overtaken_is_told_at_its_next_renewal(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    take(store, ROOT, "d", HOLDER)
    with pytest.raises(LeaseLost, match="attempt 1 has been overtaken by attempt 2; nothing it writes now counts"):
        lease.renew(10)
    with pytest.raises(LeaseLost):
        lease.check()
    with pytest.raises(LeaseLost):
        lease.start_from(0)


def test_the_end_of_one_who_was_overtaken_changes_only_its_own_account(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    second = take(store, ROOT, "d", HOLDER)
    lease.end("overtaken", 69)
    assert [body.ended is None for body in history(store, ROOT)] == [False, True]
    second.check()


def test_a_clock_that_is_off_costs_time_and_never_two_winners() -> None:
    clock = Clock()
    ours = in_memory_store(clock=clock)
    assert isinstance(ours.objects, InMemoryObjects)
    theirs = in_memory_store(objects=ours.objects, clock=clock_off_by(timedelta(hours=1), clock))
    first = take(ours, ROOT, "d", HOLDER)
    second = take(theirs, ROOT, "d", HOLDER)  # an hour ahead: to them it looks expired
    clock.advance(60)
    with pytest.raises(LeaseLost):
        first.renew(10)
    second.renew(10)
    with pytest.raises(LeaseHeld):
        take(ours, ROOT, "d", HOLDER)


def test_a_store_that_is_away_is_forgiven_until_the_lease_is_over() -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = take(store, ROOT, "d", HOLDER)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("*", "*", "before", times=-1, message="away"))
    clock.advance(HOLDER.lease_seconds)
    lease.renew(10)
    clock.advance(1)
    with pytest.raises(StoreUnavailable, match="away"):
        lease.renew(20)
    store.objects.faults.clear()
    lease.renew(30)
    assert history(store, ROOT)[0].tokens == 30


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"number": 1}'])
def test_a_lease_that_cannot_be_read_keeps_its_number_and_expires(broken: bytes) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    store.objects.put(lease_key(ROOT, 1), broken)
    with pytest.raises(LeaseHeld):
        take(store, ROOT, "d", HOLDER)
    clock.advance(EXPIRY + 1)
    assert take(store, ROOT, "d", HOLDER).number == 2
    assert [body.number for body in history(store, ROOT)] == [1, 2]


def test_history_is_in_order_of_numbers_beyond_six_digits(store: Store) -> None:
    for number in (999_999, 1_000_000, 2):
        put(store, foreign(number, ended=Ended(at=T0, how="done", code=0)))
    assert [body.number for body in history(store, ROOT)] == [2, 999_999, 1_000_000]
    assert take(store, ROOT, "d", HOLDER).number == 1_000_001


def ended(number: int, code: int, **changes: object) -> LeaseBody:
    return foreign(number, ended=Ended(at=T0 + timedelta(seconds=90), how="", code=code), **changes)


@pytest.mark.parametrize(
    ("bodies", "counted"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([ended(1, 1), ended(2, 2), ended(3, 78)], 3, id="failures"),
        pytest.param([ended(1, 0), ended(2, 69), ended(3, 75), ended(4, 137), ended(5, 143)], 0, id="no failures"),
        pytest.param([ended(1, 1, digest="other"), ended(2, 1, run_number=2)], 0, id="of another task or run"),
        pytest.param([foreign(n) for n in range(SILENT_ENDS - 1)], 0, id="nine silent ends"),
        pytest.param([foreign(n) for n in range(SILENT_ENDS)], 1, id="ten silent ends"),
        pytest.param([ended(n, 137) for n in range(SILENT_ENDS)], 1, id="ten kills"),
        pytest.param([foreign(n, checkpoint=100) for n in range(SILENT_ENDS)], 0, id="each with a new checkpoint"),
        pytest.param([foreign(n, from_attempt=n - 1) for n in range(SILENT_ENDS)], 0, id="each took up what the one before wrote"),
    ],
)
def test_what_counts_as_a_failure(bodies: list[LeaseBody], counted: int) -> None:
    assert failures(bodies, "d", 1) == counted


def took_up(number: int, tokens: int) -> LeaseBody:
    return foreign(number, took_up=True, tokens=tokens)


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        pytest.param([], 0, id="the first attempt"),
        pytest.param([took_up(1, 90)], 30, id="one went further"),
        pytest.param([took_up(1, 60)], 0, id="one stopped there"),
        pytest.param([took_up(1, 90), took_up(2, 70)], 10, id="what the first one had more, the second one lost"),
        pytest.param([took_up(1, 90), foreign(2), foreign(3)], 30, id="others never began"),
        pytest.param([foreign(1)], 0, id="nobody began"),
        pytest.param([took_up(1, 500)], 40, id="one on a longer way"),
        pytest.param([took_up(1, 20)], 0, id="one on another way"),
    ],
)
def test_what_is_trained_a_second_time(before: list[LeaseBody], lost: int) -> None:
    """From 60 tokens on, to an end at 100."""
    assert tokens_lost(before, 60, 100) == lost


@pytest.mark.parametrize(
    ("body", "spent"),
    [
        (foreign(), 0),
        (foreign(renewed=T0 + timedelta(seconds=30)), 30),
        (ended(1, 0, renewed=T0 + timedelta(seconds=30)), 90),
        (foreign(renewed=T0 - timedelta(seconds=5)), 0),
    ],
)
def test_time_spent_lasts_to_the_end_or_the_last_renewal(body: LeaseBody, spent: float) -> None:
    assert seconds(body) == spent


def test_liveness_is_asked_for_any_host() -> None:
    body = foreign(boot="boot of node 7", pid=NO_PROCESS)
    assert is_live(body, T0, Host("node-7", "another boot"))
    assert not is_live(body, T0, Host("node-7", "boot of node 7"))


def test_the_end_tells_the_last_progress_also_when_no_renewal_was_due(store: Store, clock: Clock) -> None:
    lease = take(store, ROOT, "d", HOLDER)
    lease.renew(100)
    clock.advance(1)
    lease.renew(200)
    lease.end("stopped", 75)
    assert history(store, ROOT)[0].tokens == 200


def test_an_end_is_said_for_a_holder_that_is_gone_and_once(store: Store, clock: Clock) -> None:
    lease = take(store, "tasks/d", "d", Holder(study="s"))
    clock.advance(300)
    end_for(store, "tasks/d", lease.number, "refused", 78, "OOMKilled")
    end_for(store, "tasks/d", lease.number, "failed", 1, "a second word")
    (body,) = history(store, "tasks/d")
    assert body.ended == Ended(at=body.renewed, how="refused", code=78, message="OOMKilled")
    assert seconds(body) == 0, "nobody was at work when it was said"
    assert take(store, "tasks/d", "d", Holder()).number == 2
