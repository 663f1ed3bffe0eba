"""Concurrent processes on one store: each race has one winner, and all racers agree on it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from orchestrator.contract.record import Record
from orchestrator.errors import LeaseHeld
from orchestrator.store import Store, open_store
from orchestrator.store.checkpoints import publish
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.plans import freeze
from orchestrator.store.pointers import list_checkpoints
from orchestrator.store.records import done, publish_record, read_record
from tests.store.samples import ROOT, plan, record, train

PROCESSES = 4
ROUNDS = 8
# Limits the wait for the other processes, which import the store first
START_SECONDS = 300

_barrier: Barrier


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def race(store: Store, runner: Callable[[str, int], list[str]]) -> list[list[str]]:
    """Return the results of `runner(url, racer)` in all racers: processes, or threads for an in-memory store."""
    if store.url == "memory://":
        return _race_of_threads(store, runner)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, initializer=_set_barrier, initargs=(context.Barrier(PROCESSES),)) as pool:
        return list(pool.map(runner, [store.url] * PROCESSES, range(PROCESSES)))


_in_memory: dict[str, Store] = {}


def _race_of_threads(store: Store, runner: Callable[[str, int], list[str]]) -> list[list[str]]:
    from threading import Barrier as ThreadBarrier

    _in_memory["memory://"] = store
    _set_barrier(ThreadBarrier(PROCESSES))  # type: ignore[arg-type]
    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(runner, [store.url] * PROCESSES, range(PROCESSES)))


def opened(url: str) -> Store:
    return _in_memory[url] if url in _in_memory else open_store(url)


def take_leases(url: str, racer: int) -> list[str]:  # noqa: ARG001
    store = opened(url)
    outcomes = []
    for number in range(ROUNDS):
        _barrier.wait(START_SECONDS)
        try:
            outcomes.append(acquire(store, f"trajectories/{number}", "d", Holder()).body.nonce)
        except LeaseHeld:
            outcomes.append("")
    return outcomes


def publish_records(url: str, racer: int) -> list[str]:
    store = opened(url)
    outcomes = []
    for number in range(ROUNDS):
        ours = record(train(512 * (number + 1)), nonce=f"racer {racer}", loss=float(racer))
        _barrier.wait(START_SECONDS)
        outcomes.append(publish_record(store, ours).nonce)
    return outcomes


def publish_checkpoints(url: str, racer: int) -> list[str]:
    """Every racer assumes that it holds the lease, as after clock skew; only the first pointer is published."""
    store = opened(url)
    lease = acquire(store, f"tasks/{racer}", "d", Holder())
    lease.work_root, lease.body = ROOT, lease.body.model_copy(update={"number": 10 * (racer + 1)})
    outcomes = []
    for number in range(ROUNDS):
        _barrier.wait(START_SECONDS)
        outcomes.append(str(publish(store, lease, 512 * (number + 1), {"w": bytes([racer]) * 1000}, {"racer": racer}).state["racer"]))
    return outcomes


def freeze_plans(url: str, racer: int) -> list[str]:
    store = opened(url)
    outcomes = []
    for number in range(ROUNDS):
        _barrier.wait(START_SECONDS)
        outcomes.append(str(freeze(store, plan([train(512 * (number * PROCESSES + racer + 1))]), {})[1]))
    return outcomes


def test_one_of_many_processes_acquires_the_lease(store: Store) -> None:
    rounds = list(zip(*race(store, take_leases), strict=True))
    assert len(rounds) == ROUNDS
    for outcomes in rounds:
        assert [outcome != "" for outcome in outcomes].count(True) == 1, outcomes


def test_all_racers_return_the_one_published_record(store: Store) -> None:
    rounds = list(zip(*race(store, publish_records), strict=True))
    for number, outcomes in enumerate(rounds):
        published: Record | None = read_record(store, record(train(512 * (number + 1))).digest)
        assert published is not None
        assert set(outcomes) == {published.nonce}
        assert published.nonce == f"racer {published.results['loss']:.0f}"
    assert len(done(store)) == ROUNDS


def test_first_of_many_checkpoints_is_published(store: Store) -> None:
    for outcomes in zip(*race(store, publish_checkpoints), strict=True):
        assert len(set(outcomes)) == 1
    assert list_checkpoints(store, ROOT) == [512 * (number + 1) for number in range(ROUNDS)]


def test_versions_are_numbered_without_gaps(store: Store) -> None:
    numbers = sorted(int(outcome) for outcomes in race(store, freeze_plans) for outcome in outcomes)
    assert numbers == list(range(1, PROCESSES * ROUNDS + 1))


def test_folder_can_be_listed_during_writes(tmp_path: Path) -> None:
    """Staging files appear and disappear during the listing."""
    store = open_store(str(tmp_path))

    def write(racer: int) -> None:
        for number in range(150):
            store.objects.put(f"a/{racer}-{number % 7}", b"x" * 1000)
            store.objects.delete(f"a/{racer}-{(number + 3) % 7}")

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, racer) for racer in range(2)]
        while not all(writer.done() for writer in writers):
            assert all("#" not in stat.key and stat.size == 1000 for stat in store.objects.list("a"))
        for writer in writers:
            writer.result()
