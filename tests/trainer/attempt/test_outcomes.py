"""Attempts: exit codes, leases, failure counts and the contents of the record."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer.attempt import provenance
from trainer.attempt.perform import follow_task, run_task
from trainer.context import Context, Outcome, Stopped

from orchestrator.contract.events import End, Event, Placement, Progress, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS, canonical
from orchestrator.contract.record import Attempt, Record
from orchestrator.contract.tasks import EvaluateTask, FromInitialisation, Optimizer, Schedule, Shape, TokenizerTask, TrainTask, Trajectory
from orchestrator.contract.tasks import digest_of_task as digest_of
from orchestrator.errors import ContractError, Damaged, KeyMissing, LeaseHeld, LeaseLost, MissingExtra, StoreUnavailable, TaskRefused
from orchestrator.store import Store, addresses, artifacts, leases, records
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store

TASK = TokenizerTask(vocabulary=300, byte_count=1000, held_out_one_in=10, sources=())
DIGEST = digest_of(TASK)


@pytest.fixture
def placement(tmp_path: Path) -> Placement:
    return Placement(study="small", cache=str(tmp_path / "cache"), image="trainer@sha256:00")


@pytest.fixture
def store() -> Store:
    store = in_memory_store()
    records.create_task(store, TASK)
    return store


def finish(context: Context) -> Outcome:
    made = artifacts.write_bytes(context.store, context.lease.key("tokenizer.json"), b"{}")
    return Outcome({"vocabulary": 300}, {"tokenizer": made}, from_tokens=0, tokens_lost=7)


def failing_with(problem: BaseException) -> Callable[[Context], Outcome]:
    def work(_: Context) -> Outcome:
        raise problem

    return work


def attempt(
    store: Store, placement: Placement, work: Callable[[Context], Outcome] = finish, digest: str = DIGEST, stop: bool = False
) -> tuple[ExitCode, list[Event]]:
    events: list[Event] = []
    return run_task(store, digest, placement, events.append, lambda: stop, work), events


def history(store: Store) -> list[leases.LeaseBody]:
    return leases.history(store, addresses.work_root("prepare", DIGEST))


def failure(store: Store, number: int) -> dict[str, Any] | None:
    return records.read_failure(store, addresses.attempt_key(addresses.work_root("prepare", DIGEST), number, "failure.json"))


ENDS = [
    (Stopped("asked"), ExitCode.STOPPED),
    (LeaseHeld("another"), ExitCode.HELD),
    (LeaseLost("overtaken"), ExitCode.HELD),
    (TaskRefused("the file is not UTF-8"), ExitCode.REFUSED),
    (MissingExtra("pip install it"), ExitCode.REFUSED),
    (MemoryError(), ExitCode.REFUSED),
    (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.REFUSED),
    (StoreUnavailable("full"), ExitCode.FAILED),
    (Damaged("a shard has changed"), ExitCode.FAILED),
    (KeyMissing("no such object"), ExitCode.FAILED),
    (ContractError("no identity"), ExitCode.FAILED),
    (ZeroDivisionError("division by zero"), ExitCode.FAILED),
    (RuntimeError("DefaultCPUAllocator"), ExitCode.FAILED),
]


@pytest.mark.parametrize(("problem", "code"), ENDS, ids=lambda value: type(value).__name__)
def test_every_outcome_has_an_exit_code_and_releases_the_lease(
    store: Store, placement: Placement, problem: Exception, code: ExitCode
) -> None:
    given, events = attempt(store, placement, failing_with(problem))

    assert given == code
    assert isinstance(events[-1], End)
    assert (events[-1].digest, events[-1].code) == (DIGEST, code)
    assert str(problem) in events[-1].message
    (body,) = history(store)
    assert body.ended is not None
    assert body.ended.code == code
    assert records.read_record(store, DIGEST) is None


@pytest.mark.parametrize(("problem", "code"), ENDS, ids=lambda value: type(value).__name__)
def test_only_failures_write_failure_json(store: Store, placement: Placement, problem: Exception, code: ExitCode) -> None:
    attempt(store, placement, failing_with(problem))

    reason = failure(store, 1)
    if code in (ExitCode.STOPPED, ExitCode.HELD):
        assert reason is None
    else:
        assert reason is not None
        assert (reason["code"], reason["details"]["type"]) == (code, type(problem).__name__)
        assert "in work" in reason["details"]["traceback"]


def test_record_of_a_finished_task_has_its_provenance(store: Store, placement: Placement) -> None:
    attempt(store, placement, failing_with(ZeroDivisionError("first")))
    code, events = attempt(store, placement)

    record = records.read_record(store, DIGEST)
    assert code == ExitCode.DONE
    assert events[-1] == End(DIGEST, 0)
    assert DIGEST in records.done(store)
    assert record is not None
    assert record.identity == TASK.identity()
    assert record.results == {"vocabulary": 300}
    first, second = record.attempts
    assert (first.number, first.how, first.tokens_lost) == (1, "failed", 0)
    assert (second.number, second.how, second.tokens_lost) == (2, "done", 7)
    for one in record.attempts:
        assert (one.study, one.image, one.threads) == ("small", "trainer@sha256:00", 1)
        assert {"python", "torch", "transformers", "tokenizers", "scaling-study"} <= set(one.versions)
        assert one.processor
        assert one.node
        assert one.pid
        assert datetime.fromisoformat(one.start) <= datetime.fromisoformat(one.end)


def test_a_task_with_a_record_is_not_worked_on_again(store: Store, placement: Placement) -> None:
    attempt(store, placement)

    assert attempt(store, placement, failing_with(AssertionError("worked again")))[0] == ExitCode.DONE
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

    assert attempt(later, placement, failing_with(AssertionError("worked again")))[0] == ExitCode.DONE


def test_damaged_record_is_quarantined_and_made_again(store: Store, placement: Placement) -> None:
    attempt(store, placement)
    whole = store.objects.get(addresses.record_key(DIGEST))
    store.objects.put(addresses.record_key(DIGEST), whole[: len(whole) // 2])

    assert attempt(store, placement)[0] == ExitCode.DONE
    assert records.read_record(store, DIGEST) is not None
    assert [stat.key for stat in store.objects.list("damaged") if "record.json" in stat.key]


def test_the_third_failure_in_one_run_is_the_last(store: Store, placement: Placement) -> None:
    broken = failing_with(ZeroDivisionError("again"))

    assert [attempt(store, placement, broken)[0] for _ in range(3)] == [ExitCode.FAILED, ExitCode.FAILED, ExitCode.REFUSED]
    last = failure(store, 3)
    assert last is not None
    assert last["code"] == ExitCode.REFUSED
    assert "failure 3" in last["message"]
    assert attempt(store, placement)[0] == ExitCode.REFUSED, "not even a good attempt is made in this run"


def test_new_run_number_resets_the_failure_count(store: Store, placement: Placement) -> None:
    for _ in range(3):
        attempt(store, placement, failing_with(ZeroDivisionError("again")))

    assert attempt(store, Placement(cache=placement.cache, run_number=2))[0] == ExitCode.DONE


def test_stops_and_held_leases_do_not_count_as_failures(store: Store, placement: Placement) -> None:
    for _ in range(5):
        attempt(store, placement, failing_with(Stopped("asked")))
        attempt(store, placement, failing_with(LeaseLost("overtaken")))

    assert attempt(store, placement)[0] == ExitCode.DONE


def test_repeatedly_killed_attempts_reach_the_failure_limit(store: Store, placement: Placement) -> None:
    root = addresses.work_root("prepare", DIGEST)
    for _ in range(3 * leases.SILENT_ENDS):
        leases.acquire(store, root, DIGEST, leases.Holder(study="small")).end("killed", 137)

    code, events = attempt(store, placement)

    assert code == ExitCode.REFUSED
    assert isinstance(events[-1], End)
    assert "retry" in events[-1].message


def test_second_concurrent_attempt_exits_as_held(store: Store, placement: Placement) -> None:
    inner: list[ExitCode] = []

    def work(context: Context) -> Outcome:
        inner.append(attempt(store, placement, failing_with(AssertionError("worked beside another")))[0])
        return finish(context)

    code, _ = attempt(store, placement, work)

    assert (code, inner) == (ExitCode.DONE, [ExitCode.HELD])
    assert len(history(store)) == 1


def test_an_attempt_that_was_overtaken_leaves_no_record(store: Store, placement: Placement) -> None:
    def work(context: Context) -> Outcome:
        key = addresses.lease_key(context.lease.work_root, context.lease.number + 1)
        store.objects.put(key, leases.to_bytes(context.lease.body.model_copy(update={"number": 2, "nonce": "another's"})))
        return finish(context)

    assert attempt(store, placement, work)[0] == ExitCode.HELD
    assert records.read_record(store, DIGEST) is None


def test_a_stop_before_the_start_takes_no_lease(store: Store, placement: Placement) -> None:
    assert attempt(store, placement, stop=True)[0] == ExitCode.STOPPED
    assert history(store) == []


def test_events_are_ordered_and_start_has_the_resumed_position(store: Store, placement: Placement) -> None:
    def work(context: Context) -> Outcome:
        context.lease.start_from(64)
        context.progress(96, 128, "tokens", 3.5)
        context.progress(128, 128, "tokens", 3.25)
        return finish(context)

    assert attempt(store, placement, work)[1] == [
        Start(DIGEST, 1, 64),
        Progress(DIGEST, 96, 128, "tokens", 3.5),
        Progress(DIGEST, 128, 128, "tokens", 3.25),
        End(DIGEST, 0),
    ]


def test_store_failure_at_the_end_keeps_the_record(placement: Placement) -> None:
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
        faults.append(Fault("*", "*", "before", times=1000, message="away"))
        return failing_with(problem)(context)

    code, events = attempt(store, placement, work)

    assert code == ExitCode.FAILED
    assert isinstance(events[-1], End)
    assert str(problem) in events[-1].message
    assert "away" not in events[-1].message


def test_uncountable_failure_releases_the_lease(placement: Placement) -> None:
    faults: list[Fault] = []
    store = in_memory_store(faults)
    records.create_task(store, TASK)

    def work(context: Context) -> Outcome:
        faults.append(Fault("list", "*", "before"))
        return failing_with(ZeroDivisionError())(context)

    attempt(store, placement, work)

    assert history(store)[0].ended is not None


OTHER_NUMERICS = EvaluateTask("00", 64, "bpb", {"source": "11", "documents": 1, "window": 8}, NUMERICS + 1)


def test_a_task_of_other_numerics_is_refused(store: Store, placement: Placement) -> None:
    digest = records.create_task(store, OTHER_NUMERICS)

    code, events = attempt(store, placement, digest=digest)

    assert code == ExitCode.REFUSED
    assert isinstance(events[-1], End)
    assert f"NUMERICS {NUMERICS + 1}" in events[-1].message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, ExitCode.FAILED),
        (b"{}", ExitCode.FAILED),  # not what the digest promised: planning writes it again
    ],
    ids=["missing", "damaged"],
)
def test_unreadable_task_is_not_performed(store: Store, placement: Placement, body: bytes | None, code: ExitCode) -> None:
    digest = "ab" * 32
    if body is not None:
        store.objects.put(addresses.task_key(digest), body)

    assert attempt(store, placement, failing_with(AssertionError("worked")), digest)[0] == code


def test_a_task_of_a_later_contract_is_refused(store: Store, placement: Placement) -> None:
    import hashlib

    body = canonical({**TASK.identity(), "version": 99}).encode()
    digest = hashlib.sha256(body).hexdigest()
    store.objects.put(addresses.task_key(digest), body)

    assert attempt(store, placement, failing_with(AssertionError("worked")), digest)[0] == ExitCode.REFUSED


SHAPE = Shape(width=8, layers=1, heads=1, feed_forward=8, vocabulary=300, tied=True, rope_theta=10000, norm_eps="1e-5")
TRAJECTORY = Trajectory(
    start=FromInitialisation(SHAPE, 1, "0.02"),
    shares=((DIGEST, 1),),
    already_read=(),
    data_seed=1,
    sequence_length=8,
    batch=1,
    optimizer=Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5"),
    schedule=Schedule("constant", 8, "0.001"),
    precision="fp32",
    numerics=NUMERICS,
)


def damage(store: Store, key: str) -> None:
    body = bytearray(store.objects.get(key))
    body[0] ^= 1
    store.objects.put(key, bytes(body))


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
    assert attempt(store, placement)[0] == ExitCode.DONE, "and it is"


def test_intact_inputs_are_kept(store: Store, placement: Placement) -> None:
    attempt(store, placement)
    needing = records.create_task(store, TrainTask(TRAJECTORY, 64))

    attempt(store, placement, failing_with(Damaged("something else")), needing)

    assert DIGEST in records.done(store)


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


def test_failed_rank_logs_its_traceback(store: Store, placement: Placement, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow_task(store, "0" * 64, placement, lambda: False) == ExitCode.FAILED
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert "rank None of 000000000000" in output


def test_interrupt_ends_the_lease(store: Store, placement: Placement) -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(store, placement, failing_with(KeyboardInterrupt()))

    assert history(store)[0].ended is not None


def test_the_commit_may_come_from_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.attempt import provenance

    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "0123abc-dirty")
    provenance.commit.cache_clear()
    try:
        assert provenance.commit() == ("0123abc", True)
    finally:
        provenance.commit.cache_clear()


def test_failure_json_is_indented(store: Store, placement: Placement) -> None:
    attempt(store, placement, failing_with(TaskRefused("the held-out set is empty")))

    key = addresses.attempt_key(addresses.work_root("prepare", DIGEST), 1, "failure.json")
    assert json.loads(store.objects.get(key))["message"] == "the held-out set is empty"


def test_record_has_tokens_lost_of_every_attempt(store: Store) -> None:
    """Several attempts resumed before the position that an earlier one had reached; the third one never started."""
    shorter, longer = (records.create_task(store, TrainTask(TRAJECTORY, tokens)) for tokens in (104, 400))
    root = addresses.work_root("train", "0" * 64)
    for digest, start, end in ((longer, 0, 120), (shorter, 64, 96), (shorter, None, 0), (longer, 80, 200), (DIGEST, 80, 80)):
        lease = leases.acquire(store, root, digest, leases.Holder(study="small"))
        if start is not None:
            lease.start_from(start)
            lease.renew(end)
        lease.end("stopped", ExitCode.STOPPED)
    own = Attempt(number=6, study="small", start=lease.body.start.isoformat(), end="", from_tokens=152, tokens_lost=50)
    assert [entry.tokens_lost for entry in provenance.attempts(store, root, own)] == [0, 104 - 64, 0, 96 - 80, 0, 50]
