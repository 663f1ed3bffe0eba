"""Checkpoints are published atomically, never overwritten, and replaced by the next lower one if damaged."""

from pathlib import Path

import pytest

from orchestrator.errors import Damaged, KeyMissing, LeaseLost, StoreUnavailable
from orchestrator.store import Store
from orchestrator.store.addresses import checkpoint_pointer_key, done_key, record_key
from orchestrator.store.checkpoints import Checkpoint, find, list_checkpoints, load, load_latest, publish
from orchestrator.store.leases import Holder, Lease, acquire, history
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from orchestrator.store.records import create_task, done, publish_record, read_record
from tests.store.samples import ROOT, Clock, overwrite, record, train

HOLDER = Holder(study="s")
FILES: dict[str, Path | bytes] = {"weights.bin": b"w" * 1000, "optimizer.bin": b"o" * 2000}


def lease_on(store: Store) -> Lease:
    return acquire(store, ROOT, create_task(store, train(1024)), HOLDER)


def published(store: Store, lease: Lease, *tokens: int) -> None:
    for at_tokens in tokens:
        publish(store, lease, at_tokens, FILES, {"step": at_tokens // 512})


def tokens_of(found: tuple[Checkpoint, dict[str, Path]] | None) -> int | None:
    return None if found is None else found[0].tokens


def test_published_checkpoint_loads_with_its_files_and_state(store: Store, cache: Path, tmp_path: Path) -> None:
    lease = lease_on(store)
    (tmp_path / "model").write_bytes(b"m" * 500)
    state = {"step": 2, "hash": "ab", "nested": {"loss": [1.5, float("inf")]}}
    ours = publish(store, lease, 1024, {**FILES, "model.safetensors": tmp_path / "model"}, state)
    checkpoint, files = load(store, ROOT, 1024, cache)
    assert checkpoint == ours
    assert (checkpoint.tokens, checkpoint.attempt, checkpoint.state) == (1024, 1, state)
    assert {name: path.read_bytes()[:1] for name, path in files.items()} == {
        "weights.bin": b"w",
        "optimizer.bin": b"o",
        "model.safetensors": b"m",
    }
    assert checkpoint.files["weights.bin"].key == f"{ROOT}/attempts/000001/checkpoints/1024/weights.bin"


def test_load_latest_returns_the_highest_checkpoint_up_to_the_end(store: Store, cache: Path) -> None:
    lease = lease_on(store)
    published(store, lease, 512, 4096, 1024)
    assert list_checkpoints(store, ROOT) == [512, 1024, 4096]
    ends = [100, 512, 600, 1024, 4095, 4096, 10**9]
    assert [tokens_of(load_latest(store, ROOT, end, cache)) for end in ends] == [None, 512, 512, 1024, 1024, 4096, 4096]


@pytest.mark.parametrize("change", [(b'"tokens": 512', b'"tokens": 513'), (b'"attempt": 1', b'"attempt": 3')])
def test_pointer_that_contradicts_its_key_or_manifest_is_damaged(store: Store, change: tuple[bytes, bytes]) -> None:
    published(store, lease_on(store), 512)
    key = checkpoint_pointer_key(ROOT, 512)
    body = store.objects.get(key)
    store.objects.put(key, body.replace(*change, 1))
    assert store.objects.get(key) != body
    with pytest.raises(Damaged, match="names other tokens or another attempt"):
        find(store, ROOT, 512)


def test_empty_trajectory_has_no_checkpoint(store: Store, cache: Path) -> None:
    assert load_latest(store, ROOT, 10**9, cache) is None
    with pytest.raises(KeyMissing):
        load(store, ROOT, 512, cache)


def test_published_checkpoint_is_never_overwritten(store: Store, cache: Path) -> None:
    first = lease_on(store)
    published(store, first, 512)
    first.end("stopped", 75)
    second = lease_on(store)
    published_checkpoint = publish(store, second, 512, {"weights.bin": b"other"}, {})
    assert (published_checkpoint.attempt, published_checkpoint.state) == (1, {"step": 1})
    assert load(store, ROOT, 512, cache)[0].attempt == 1


def test_attempt_without_lease_publishes_nothing(store: Store, clock: Clock) -> None:
    lease = lease_on(store)
    clock.advance(10_000)
    lease_on(store)
    with pytest.raises(LeaseLost):
        published(store, lease, 512)
    assert list_checkpoints(store, ROOT) == []


KEYS = {
    "weights": f"{ROOT}/attempts/000001/checkpoints/1024/weights.bin",
    "manifest": f"{ROOT}/attempts/000001/checkpoints/1024/manifest.json",
    "pointer": checkpoint_pointer_key(ROOT, 1024),
}


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("what", ["weights", "manifest", "pointer"])
def test_damaged_checkpoint_is_replaced_by_the_next_lower(store: Store, cache: Path, what: str, change: str) -> None:
    lease = lease_on(store)
    published(store, lease, 512, 1024)
    overwrite(store, KEYS[what], change)
    with pytest.raises((Damaged, KeyMissing)):
        load(store, ROOT, 1024, cache)
    assert tokens_of(load_latest(store, ROOT, 2048, cache)) == 512
    assert list_checkpoints(store, ROOT) == [512]
    if (what, change) != ("pointer", "remove"):
        assert any(stat.key.startswith(f"damaged/{KEYS['pointer']}~") for stat in store.objects.list("damaged"))
    published(store, lease, 1024)
    assert tokens_of(load_latest(store, ROOT, 2048, cache)) == 1024


def test_only_requested_files_are_fetched_and_checked(store: Store, cache: Path, tmp_path: Path) -> None:
    published(store, lease_on(store), 1024)
    overwrite(store, f"{ROOT}/attempts/000001/checkpoints/1024/optimizer.bin", "flip")
    checkpoint, files = load(store, ROOT, 1024, cache, names=("weights.bin",))
    assert (set(files), set(checkpoint.files)) == ({"weights.bin"}, set(FILES))
    with pytest.raises(Damaged):
        load(store, ROOT, 1024, cache)
    overwrite(store, KEYS["weights"], "flip")
    with pytest.raises(Damaged):
        load(store, ROOT, 1024, tmp_path / "a cache without it", names=("weights.bin",))


def test_record_of_a_damaged_final_checkpoint_is_quarantined_too(store: Store, cache: Path) -> None:
    lease = lease_on(store)
    published(store, lease, 512, 1024)
    for tokens in (512, 1024):
        publish_record(store, record(train(tokens)))
    overwrite(store, KEYS["weights"], "flip")
    load_latest(store, ROOT, 2048, cache)
    assert done(store) == {record(train(512)).digest}
    assert read_record(store, record(train(1024)).digest) is None
    quarantined = {stat.key.partition("~")[0] for stat in store.objects.list("damaged")}
    assert quarantined == {f"damaged/{KEYS['pointer']}", f"damaged/{record_key(record(train(1024)).digest)}"}


def test_quarantine_deletes_marker_then_record_then_pointer(cache: Path) -> None:
    store = in_memory_store()
    published(store, lease_on(store), 1024)
    digest = publish_record(store, record(train(1024))).digest
    overwrite(store, KEYS["weights"], "flip")
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.log.clear()
    load_latest(store, ROOT, 2048, cache)
    order = [key for name, key in store.objects.log if name == "delete"]
    assert order == [done_key(digest), record_key(digest), KEYS["pointer"]]
    last_copy = max(index for index, (name, _) in enumerate(store.objects.log) if name == "put")
    assert last_copy < store.objects.log.index(("delete", record_key(digest)))


def test_damaged_checkpoint_at_the_same_tokens_is_quarantined(store: Store, cache: Path) -> None:
    first = lease_on(store)
    published(store, first, 1024)
    first.end("done", 0)
    overwrite(store, KEYS["manifest"], "cut")
    second = lease_on(store)
    published(store, second, 1024)
    assert load(store, ROOT, 1024, cache)[0].attempt == 2


def writes_of_a_publication() -> int:
    store = in_memory_store()
    lease = lease_on(store)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.log.clear()
    published(store, lease, 512)
    return len([name for name, _ in store.objects.log])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", range(writes_of_a_publication()))
def test_interrupted_publication_leaves_a_usable_store(operation: int, when: str, tmp_path: Path) -> None:
    store = in_memory_store()
    first = lease_on(store)
    published(store, first, 512)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("*", "*", when, skip=operation, times=10**6))  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        published(store, first, 1024)
    store.objects.faults.clear()
    first.end("failed", 1)
    second = lease_on(store)
    found = load_latest(store, ROOT, 2048, tmp_path)
    assert tokens_of(found) == (1024 if find_or_none(store, 1024) else 512)
    published(store, second, 1024)
    assert tokens_of(load_latest(store, ROOT, 2048, tmp_path)) == 1024


def find_or_none(store: Store, tokens: int) -> Checkpoint | None:
    try:
        return find(store, ROOT, tokens)
    except KeyMissing:
        return None


@pytest.mark.parametrize("when", ["lost reply", "after", "before"])
def test_lost_reply_of_the_pointer_write_is_harmless(when: str, tmp_path: Path) -> None:
    store = in_memory_store([Fault("create", "*/checkpoints/*.json", when)])  # type: ignore[arg-type]
    lease = lease_on(store)
    published(store, lease, 512)
    assert load(store, ROOT, 512, tmp_path)[0].attempt == 1


def test_resumed_attempt_records_its_predecessor(store: Store) -> None:
    first = lease_on(store)
    first.start_from(0)
    published(store, first, 512)
    first.end("stopped", 75)
    second = lease_on(store)
    second.start_from(512)
    bodies = history(store, ROOT)
    assert [(body.took_up, body.from_tokens, body.from_attempt) for body in bodies] == [(True, 0, None), (True, 512, 1)]
    assert [body.checkpoint for body in bodies] == [512, None]
