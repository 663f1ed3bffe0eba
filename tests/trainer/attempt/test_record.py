"""Contents of the record, and events of an attempt."""

from datetime import datetime

import pytest
from trainer.attempt import provenance
from trainer.context import Context, Outcome

from orchestrator.contract.events import End, Placement, Progress, Start
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.record import Attempt
from orchestrator.contract.tasks import TrainTask
from orchestrator.store import Store, addresses, leases, records
from tests.trainer.attempt.attempts import DIGEST, TASK, TRAJECTORY, attempt, failing_with, finish


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


def test_commit_is_read_from_the_environment_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "0123abc-dirty")
    provenance.commit.cache_clear()
    try:
        assert provenance.commit() == ("0123abc", True)
    finally:
        provenance.commit.cache_clear()


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
