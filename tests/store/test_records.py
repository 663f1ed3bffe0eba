"""Records never change; readers restore missing markers, and damaged records are quarantined."""

import json

import pytest

from orchestrator.contract.identity import canonical
from orchestrator.contract.tasks import digest_of_task
from orchestrator.errors import ContractError, Damaged, KeyMissing, StoreUnavailable
from orchestrator.store import Store
from orchestrator.store.addresses import attempt_key, done_key, record_key, task_key
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from orchestrator.store.quarantine import quarantine_record
from orchestrator.store.records import create_task, done, mark_done, publish_record, read_failure, read_record, read_task, record_failure
from tests.store.samples import evaluation, overwrite, record, root_of, train

TASK = train(1024)
DIGEST = digest_of_task(TASK)


@pytest.mark.parametrize("task", [train(512), evaluation(512)])
def test_created_task_is_read_back(store: Store, task: object) -> None:
    digest = create_task(store, task)  # type: ignore[arg-type]
    assert create_task(store, task) == digest  # type: ignore[arg-type]
    assert read_task(store, digest) == task


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_damaged_identity_is_rejected_and_written_again(store: Store, change: str) -> None:
    create_task(store, TASK)
    overwrite(store, task_key(DIGEST), change)
    with pytest.raises(Damaged, match="does not match its digest"):
        read_task(store, DIGEST)
    create_task(store, TASK)
    assert read_task(store, DIGEST) == TASK


def test_task_of_another_contract_version_is_rejected(store: Store) -> None:
    from orchestrator.contract.identity import digest_of_text

    text = canonical({**TASK.identity(), "new": 1})
    store.objects.put(task_key(digest_of_text(text)), text.encode())
    with pytest.raises(ContractError, match="this version of the contract does not know"):
        read_task(store, digest_of_text(text))


def test_missing_task_raises_key_missing(store: Store) -> None:
    with pytest.raises(KeyMissing):
        read_task(store, DIGEST)


def test_record_is_published_read_and_listed(store: Store) -> None:
    assert read_record(store, DIGEST) is None
    ours = record(TASK)
    assert publish_record(store, ours) == ours
    assert read_record(store, DIGEST) == ours
    assert done(store) == {DIGEST}


def test_published_record_is_never_overwritten(store: Store) -> None:
    first, second = record(TASK, nonce="first", loss=2.0), record(TASK, nonce="second", loss=3.0)
    publish_record(store, first)
    assert publish_record(store, second) == first
    assert read_record(store, DIGEST) == first


@pytest.mark.parametrize("when", ["lost reply", "after", "before"])
@pytest.mark.parametrize("times", [1, 2])
def test_publisher_is_recognised_after_a_lost_reply(when: str, times: int) -> None:
    store = in_memory_store([Fault("create", "*/record.json", when, times=times)])  # type: ignore[arg-type]
    ours = record(TASK)
    assert publish_record(store, ours).nonce == "ours"
    assert publish_record(store, record(TASK, nonce="theirs")) == ours


def test_reading_a_record_restores_its_marker(store: Store) -> None:
    publish_record(store, record(TASK))
    store.objects.delete(done_key(DIGEST))
    assert done(store) == set()
    assert read_record(store, DIGEST) is not None
    assert done(store) == {DIGEST}


def test_record_is_read_from_a_read_only_store() -> None:
    store = in_memory_store()
    publish_record(store, record(TASK))
    store.objects.delete(done_key(DIGEST))
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("put", "*", "before", times=-1, message="the file system is read-only"))
    assert read_record(store, DIGEST) == record(TASK)


def test_next_attempt_restores_the_marker_after_a_crash() -> None:
    store = in_memory_store([Fault("put", "done/*", "before")])
    with pytest.raises(StoreUnavailable):
        publish_record(store, record(TASK))
    assert done(store) == set()
    assert publish_record(store, record(TASK, nonce="next")).nonce == "ours"
    assert done(store) == {DIGEST}


@pytest.mark.parametrize(
    ("change", "message"),
    [("cut", "is not a complete record"), ("empty", "is not a complete record"), ("flip", "is not a complete record|another task")],
)
def test_damaged_record_is_reported_and_replaced(store: Store, change: str, message: str) -> None:
    publish_record(store, record(TASK, nonce="broken"))
    overwrite(store, record_key(DIGEST), change)
    if change == "flip":
        store.objects.put(record_key(DIGEST), record(TASK).to_bytes().replace(b'"kind": "train"', b'"kind": "trail"'))
    with pytest.raises(Damaged, match=message) as caught:
        read_record(store, DIGEST)
    assert f"{record_key(DIGEST)} is" in str(caught.value)
    assert "the next run quarantines it and repeats the task" in str(caught.value)
    ours = record(TASK, nonce="next")
    assert publish_record(store, ours) == ours
    assert read_record(store, DIGEST) == ours
    assert len(list(store.objects.list(f"damaged/tasks/{DIGEST}"))) == 2


def test_record_under_another_digest_is_damaged(store: Store) -> None:
    store.objects.put(record_key(DIGEST), record(train(512)).to_bytes())
    with pytest.raises(Damaged, match="is the record of another task"):
        read_record(store, DIGEST)


def test_quarantined_record_is_kept_with_a_reason(store: Store) -> None:
    body = publish_record(store, record(TASK)).to_bytes()
    quarantine_record(store, DIGEST, "a flipped byte in a shard")
    assert (read_record(store, DIGEST), done(store)) == (None, set())
    copies = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("damaged")}
    (note,) = [json.loads(copy) for key, copy in copies.items() if key.endswith(".why.json")]
    assert (note["key"], note["why"]) == (record_key(DIGEST), "a flipped byte in a shard")
    assert body in copies.values()


@pytest.mark.parametrize("operation", range(6))
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_quarantine_loses_nothing(operation: int, when: str) -> None:
    store = in_memory_store()
    body = publish_record(store, record(TASK)).to_bytes()
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("*", "*", when, skip=operation, times=10**6))  # type: ignore[arg-type]
    try:
        quarantine_record(store, DIGEST, "why")
    except StoreUnavailable:
        assert operation < 5
    store.objects.faults.clear()
    everything = [store.objects.get(stat.key) for stat in store.objects.list("")]
    assert body in everything
    quarantine_record(store, DIGEST, "why")
    assert publish_record(store, record(TASK, nonce="next")).nonce == "next"


def test_reason_of_a_failure_is_read_back(store: Store) -> None:
    lease = acquire(store, root_of(TASK), DIGEST, Holder())
    record_failure(store, lease, 78, "NaN beyond the rule", {"step": 7, "loss": float("nan")})
    reason = read_failure(store, attempt_key(root_of(TASK), 1, "failure.json"))
    assert reason is not None
    assert (reason["code"], reason["message"], reason["details"]["step"]) == (78, "NaN beyond the rule", 7)
    assert read_failure(store, attempt_key(root_of(TASK), 2, "failure.json")) is None


def test_unknown_fields_of_a_newer_version_are_ignored(store: Store) -> None:
    task = train(1024)
    create_task(store, task)
    publish_record(store, record(task))
    key = record_key(digest_of_task(task))
    body = json.loads(store.objects.get(key))
    body["attempts"][0]["weather"] = "fine"
    newer = json.dumps({**body, "mood": "good"}).encode()
    store.objects.put(key, newer)
    mark_done(store, digest_of_task(task), newer)
    found = read_record(store, digest_of_task(task))
    assert found is not None
    assert found.results == record(task).results
