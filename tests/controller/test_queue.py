"""The work queue."""

import threading

from orchestrator.controller.queue import MAX_BACKOFF, WorkQueue
from tests.controller.simulated_cluster import Clock

PATIENCE = 60


def test_a_study_is_queued_once_at_its_earliest_time() -> None:
    clock = Clock()
    queue = WorkQueue(clock.seconds)
    queue.add("a", 10)
    queue.add("a", 5)
    queue.add("a", 20)
    queue.add("b")
    assert queue.take_due() == ["b"]
    clock.advance(5)
    assert queue.take_due() == ["a"]
    clock.advance(60)
    assert queue.take_due() == []


def test_backoff_grows_until_a_success() -> None:
    queue = WorkQueue(Clock().seconds)
    delays = [queue.add_failed("a") for _ in range(9)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, MAX_BACKOFF)
    queue.reset_backoff("a")
    assert queue.add_failed("a") == 1.0


def test_adding_a_study_ends_a_wait() -> None:
    queue = WorkQueue()
    waiting = threading.Thread(target=queue.wait, args=(PATIENCE,))
    waiting.start()
    queue.add("a")
    waiting.join(PATIENCE / 2)
    assert not waiting.is_alive()
