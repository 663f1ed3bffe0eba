"""Concurrent, repeated and overtaken attempts."""

from trainer.context import Context, Outcome

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import KeyMissing
from orchestrator.store import Store, addresses, leases, records
from orchestrator.store.memory import InMemoryObjects, in_memory_store
from tests.trainer.attempt.attempts import DIGEST, TASK, TRAJECTORY, attempt, failing_with, finish, history


def test_completed_task_is_not_run_again(store: Store, placement: Placement) -> None:
    attempt(store, placement)

    assert attempt(store, placement, failing_with(AssertionError("ran again")))[0] == ExitCode.DONE
    assert len(history(store)) == 1


def test_task_finished_while_waiting_for_the_lease_is_not_repeated(placement: Placement) -> None:
    """The record is published between the first check and the acquisition of the lease."""

    class FinishedMeanwhile(InMemoryObjects):
        looked = False

        def get(self, key: str) -> bytes:
            if key == addresses.record_key(DIGEST) and not self.looked:
                self.looked = True
                attempt(in_memory_store(objects=self), placement)
                raise KeyMissing(key)
            return super().get(key)

    objects = FinishedMeanwhile()
    later = in_memory_store(objects=objects)
    records.create_task(later, TASK)

    assert attempt(later, placement, failing_with(AssertionError("ran again")))[0] == ExitCode.DONE


def test_second_concurrent_attempt_exits_as_held(store: Store, placement: Placement) -> None:
    inner: list[ExitCode] = []

    def work(context: Context) -> Outcome:
        inner.append(attempt(store, placement, failing_with(AssertionError("two attempts at once")))[0])
        return finish(context)

    code, _ = attempt(store, placement, work)

    assert (code, inner) == (ExitCode.DONE, [ExitCode.HELD])
    assert len(history(store)) == 1


def test_overtaken_attempt_publishes_no_record(store: Store, placement: Placement) -> None:
    def work(context: Context) -> Outcome:
        key = addresses.lease_key(context.lease.work_root, context.lease.number + 1)
        store.objects.put(key, leases.to_bytes(context.lease.body.model_copy(update={"number": 2, "nonce": "another's"})))
        return finish(context)

    assert attempt(store, placement, work)[0] == ExitCode.HELD
    assert records.read_record(store, DIGEST) is None


def test_stop_before_the_start_acquires_no_lease(store: Store, placement: Placement) -> None:
    assert attempt(store, placement, stop=True)[0] == ExitCode.STOPPED
    assert history(store) == []


def test_horizons_of_one_trajectory_share_prefix_and_lease(store: Store, placement: Placement) -> None:
    shorter, longer = (records.create_task(store, TrainTask(TRAJECTORY, tokens)) for tokens in (64, 128))
    inner: list[ExitCode] = []

    def work(context: Context) -> Outcome:
        inner.append(attempt(store, placement, finish, longer)[0])
        return finish(context)

    assert attempt(store, placement, work, shorter)[0] == ExitCode.DONE
    assert inner == [ExitCode.HELD]
    assert attempt(store, placement, finish, longer)[0] == ExitCode.DONE
    record = records.read_record(store, longer)
    assert isinstance(record, Record)
    assert [one.number for one in record.attempts] == [1, 2]
