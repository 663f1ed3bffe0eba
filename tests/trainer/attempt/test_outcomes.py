"""Exit codes and failure.json of an attempt, for every way in which it can end."""

import hashlib
import json

import pytest
import torch
from trainer.attempt.perform import follow_task
from trainer.context import Stopped

from orchestrator.contract.events import End, Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS, canonical
from orchestrator.contract.tasks import EvaluateTask
from orchestrator.errors import ContractError, Damaged, KeyMissing, LeaseHeld, LeaseLost, MissingExtra, StoreUnavailable, TaskRefused
from orchestrator.store import Store, addresses, records
from tests.trainer.attempt.attempts import DIGEST, TASK, attempt, failing_with, failure, history

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


def test_failure_json_is_indented(store: Store, placement: Placement) -> None:
    attempt(store, placement, failing_with(TaskRefused("the held-out set is empty")))

    key = addresses.attempt_key(addresses.work_root("prepare", DIGEST), 1, "failure.json")
    assert json.loads(store.objects.get(key))["message"] == "the held-out set is empty"


def test_interrupt_ends_the_lease(store: Store, placement: Placement) -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(store, placement, failing_with(KeyboardInterrupt()))

    assert history(store)[0].ended is not None


def test_failed_rank_logs_its_traceback(store: Store, placement: Placement, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow_task(store, "0" * 64, placement, lambda: False) == ExitCode.FAILED
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert "rank None of 000000000000" in output


OTHER_NUMERICS = EvaluateTask("00", 64, "bpb", {"source": "11", "documents": 1, "window": 8}, NUMERICS + 1)


def test_task_with_another_numerics_version_is_refused(store: Store, placement: Placement) -> None:
    digest = records.create_task(store, OTHER_NUMERICS)

    code, events = attempt(store, placement, digest=digest)

    assert code == ExitCode.REFUSED
    assert isinstance(events[-1], End)
    assert f"NUMERICS {NUMERICS + 1}" in events[-1].message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, ExitCode.FAILED),
        (b"{}", ExitCode.FAILED),  # does not match its digest; planning writes the task again
    ],
    ids=["missing", "damaged"],
)
def test_unreadable_task_is_not_performed(store: Store, placement: Placement, body: bytes | None, code: ExitCode) -> None:
    digest = "ab" * 32
    if body is not None:
        store.objects.put(addresses.task_key(digest), body)

    assert attempt(store, placement, failing_with(AssertionError("ran")), digest)[0] == code


def test_task_of_a_later_contract_version_is_refused(store: Store, placement: Placement) -> None:
    body = canonical({**TASK.identity(), "version": 99}).encode()
    digest = hashlib.sha256(body).hexdigest()
    store.objects.put(addresses.task_key(digest), body)

    assert attempt(store, placement, failing_with(AssertionError("ran")), digest)[0] == ExitCode.REFUSED
