"""Attempts while the store fails, and damaged records and inputs."""

import pytest
from trainer.context import Context, Outcome

from orchestrator.contract.events import End, Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import Damaged, StoreUnavailable
from orchestrator.store import Store, addresses, artifacts, records
from orchestrator.store.memory import Fault, in_memory_store
from tests.trainer.attempt.attempts import DIGEST, TASK, TRAJECTORY, attempt, failing_with, finish, history


def test_record_is_kept_when_the_lease_cannot_be_released(placement: Placement) -> None:
    faults: list[Fault] = []
    store = in_memory_store(faults)
    records.create_task(store, TASK)

    def work(context: Context) -> Outcome:
        faults.append(Fault("put", "*/lease/*", "before", times=100))
        return finish(context)

    assert attempt(store, placement, work)[0] == ExitCode.DONE


def test_unwritable_store_is_reported_with_its_message(placement: Placement) -> None:
    store = in_memory_store([Fault("put", "*attempts*", "before", times=100, message="no space left on device")])
    records.create_task(store, TASK)

    code, events = attempt(store, placement)

    assert code == ExitCode.FAILED
    assert isinstance(events[-1], End)
    assert "no space left" in events[-1].message


@pytest.mark.parametrize("problem", [StoreUnavailable("no answer"), Damaged("a shard has changed"), ZeroDivisionError("by zero")], ids=str)
def test_failure_during_a_store_outage_keeps_its_message(placement: Placement, problem: Exception) -> None:
    faults: list[Fault] = []
    store = in_memory_store(faults)
    records.create_task(store, TASK)

    def work(context: Context) -> Outcome:
        faults.append(Fault("*", "*", "before", times=1000, message="unreachable"))
        return failing_with(problem)(context)

    code, events = attempt(store, placement, work)

    assert code == ExitCode.FAILED
    assert isinstance(events[-1], End)
    assert str(problem) in events[-1].message
    assert "unreachable" not in events[-1].message


def test_lease_is_released_when_failures_cannot_be_counted(placement: Placement) -> None:
    faults: list[Fault] = []
    store = in_memory_store(faults)
    records.create_task(store, TASK)

    def work(context: Context) -> Outcome:
        faults.append(Fault("list", "*", "before"))
        return failing_with(ZeroDivisionError())(context)

    attempt(store, placement, work)

    assert history(store)[0].ended is not None


def damage(store: Store, key: str) -> None:
    body = bytearray(store.objects.get(key))
    body[0] ^= 1
    store.objects.put(key, bytes(body))


def test_damaged_record_is_quarantined_and_recomputed(store: Store, placement: Placement) -> None:
    attempt(store, placement)
    whole = store.objects.get(addresses.record_key(DIGEST))
    store.objects.put(addresses.record_key(DIGEST), whole[: len(whole) // 2])

    assert attempt(store, placement)[0] == ExitCode.DONE
    assert records.read_record(store, DIGEST) is not None
    assert [stat.key for stat in store.objects.list("damaged") if "record.json" in stat.key]


def test_damaged_inputs_are_quarantined(store: Store, placement: Placement) -> None:
    attempt(store, placement)
    made = records.read_record(store, DIGEST)
    assert made is not None
    damage(store, made.artifacts["tokenizer"].key)
    needing = records.create_task(store, TrainTask(TRAJECTORY, 64))

    def work(context: Context) -> Outcome:
        artifacts.read_bytes(context.store, made.artifacts["tokenizer"])
        raise AssertionError("read damaged bytes")

    code, events = attempt(store, placement, work, needing)

    assert code == ExitCode.HELD
    assert isinstance(events[-1], End)
    assert "to be done again: task" in events[-1].message
    assert records.read_record(store, DIGEST) is None
    assert DIGEST not in records.done(store)
    assert attempt(store, placement)[0] == ExitCode.DONE


def test_intact_inputs_are_not_quarantined(store: Store, placement: Placement) -> None:
    attempt(store, placement)
    needing = records.create_task(store, TrainTask(TRAJECTORY, 64))

    attempt(store, placement, failing_with(Damaged("something else")), needing)

    assert DIGEST in records.done(store)
