"""`verify` finds and quarantines damaged objects; `gc` removes exactly the unneeded ones."""

import hashlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.tasks import Task, digest_of_task
from orchestrator.errors import Damaged, LeaseHeld, StoreUnavailable
from orchestrator.store import Store, artifacts
from orchestrator.store.addresses import checkpoint_pointer_key, done_key, plan_key, record_key, task_key
from orchestrator.store.checkpoints import list_checkpoints, load, publish
from orchestrator.store.leases import Holder, Lease, acquire, history
from orchestrator.store.maintenance import gc, quarantine_with_lease, verify
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from orchestrator.store.metrics import append, series
from orchestrator.store.plans import current, freeze
from orchestrator.store.records import create_task, done, publish_record, read_record
from tests.store.samples import ROOT, Clock, cooldown, evaluation, overwrite, plan, record, root_of, train

HOLDER = Holder(study="s")


def run_attempt(store: Store, task: Task, *checkpoints: int, ends: bool = True, recorded: bool = True) -> Lease:
    """Run an attempt at `task` that writes these checkpoints, some metrics, and a record."""
    lease = acquire(store, root_of(task), create_task(store, task), HOLDER)
    lease.start_from(0)
    append(store, lease, [(1, 512, "loss", 2.5)])
    for tokens in checkpoints:
        publish(store, lease, tokens, {"weights": b"w" * 1000}, {})
    if recorded:
        items = artifacts.write_bytes(store, lease.key("items.parquet"), b"i" * 1000)
        publish_record(store, record(task, artifacts={"items": items}))
    if ends:
        lease.end("done", 0)
    return lease


PLAN = plan([train(1024), evaluation(1024)])


def fill(store: Store) -> None:
    freeze(store, PLAN, {})
    run_attempt(store, train(1024), 512, 1024)
    run_attempt(store, evaluation(1024))


TRAIN, EVALUATE = digest_of_task(train(1024)), digest_of_task(evaluation(1024))


def test_intact_store_has_no_findings(store: Store) -> None:
    fill(store)
    before = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")}
    assert verify(store, repair=True) == []
    assert {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")} == before


def test_empty_store_has_no_findings(store: Store) -> None:
    assert verify(store, repair=True) == []


BREAKABLE = {
    "record": record_key(EVALUATE),
    "record of training": record_key(TRAIN),
    "artifact": f"tasks/{EVALUATE}/attempts/000001/items.parquet",
    "pointer": checkpoint_pointer_key(ROOT, 1024),
    "manifest": f"{ROOT}/attempts/000001/checkpoints/512/manifest.json",
    "weights": f"{ROOT}/attempts/000001/checkpoints/1024/weights",
}


@pytest.mark.parametrize("change", ["cut", "empty", "remove"])
@pytest.mark.parametrize("what", BREAKABLE)
def test_damage_is_found_and_repaired(store: Store, what: str, change: str) -> None:
    fill(store)
    overwrite(store, BREAKABLE[what], change)
    found = verify(store, repair=False)
    assert found
    assert not any(finding.repaired for finding in found)
    repaired = verify(store, repair=True)
    assert [finding.key for finding in repaired] == [finding.key for finding in found]
    assert all(finding.repaired for finding in repaired)
    assert verify(store, repair=True) == []


@pytest.mark.parametrize("what", ["artifact", "weights"])
def test_flipped_byte_is_found(store: Store, what: str) -> None:
    fill(store)
    overwrite(store, BREAKABLE[what], "flip")
    (finding,) = verify(store, repair=True)
    assert "has changed since it was written" in finding.problem
    undone = {"artifact": EVALUATE, "weights": TRAIN}[what]
    assert done(store) == {TRAIN, EVALUATE} - {undone}


def test_verify_without_repair_changes_nothing(store: Store) -> None:
    fill(store)
    overwrite(store, BREAKABLE["record"], "cut")
    store.objects.delete(done_key(TRAIN))
    before = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")}
    assert len(verify(store, repair=False)) == 2
    assert {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")} == before


def test_missing_and_superfluous_markers_are_repaired(store: Store) -> None:
    fill(store)
    store.objects.delete(done_key(TRAIN))
    store.objects.put(done_key("f" * 64), b"")
    assert [finding.key for finding in verify(store, repair=True)] == [record_key(TRAIN), done_key("f" * 64)]
    assert done(store) == {TRAIN, EVALUATE}


def test_identity_of_a_task_is_restored_from_its_plan(store: Store) -> None:
    fill(store)
    before = store.objects.get(task_key(TRAIN))
    store.objects.put(task_key(TRAIN), b"{}")
    (finding,) = verify(store, repair=False)
    assert (finding.counts, finding.repaired) == (False, False), "its record holds the identity too, and nothing runs it again"
    (finding,) = verify(store, repair=True)
    assert finding.repaired
    assert store.objects.get(task_key(TRAIN)) == before


def test_identity_of_an_unknown_task_has_advice(store: Store) -> None:
    store.objects.put(task_key("f" * 64), b"{}")
    (finding,) = verify(store, repair=True)
    assert (finding.counts, finding.repaired) == (True, False)
    assert "run or apply the study again" in finding.advice


def test_damaged_plan_is_quarantined_with_the_version_that_names_it(store: Store) -> None:
    fill(store)
    digest = current(store, "small")[0]  # type: ignore[index]
    store.objects.put(plan_key(digest), b"{}")
    (finding,) = verify(store, repair=False)
    assert finding.counts
    assert "run FILE --replan`" in finding.problem
    (finding,) = verify(store, repair=True)
    assert finding.repaired
    assert current(store, "small") is None
    freeze(store, PLAN, {})
    assert verify(store, repair=False) == []


def test_damaged_metrics_table_loses_only_its_rows(store: Store) -> None:
    fill(store)
    key = next(stat.key for stat in store.objects.list(f"{ROOT}/attempts/000001/metrics"))
    overwrite(store, key, "flip")
    (finding,) = verify(store, repair=True)
    assert (finding.key, finding.repaired) == (key, True)
    assert series(store, ROOT).num_rows == 0
    assert done(store) == {TRAIN, EVALUATE}


def test_work_with_a_live_lease_is_not_quarantined(store: Store) -> None:
    fill(store)
    overwrite(store, BREAKABLE["weights"], "flip")
    acquire(store, ROOT, TRAIN, HOLDER)
    (finding,) = verify(store, repair=True)
    assert not finding.repaired
    assert "not quarantined" in finding.advice
    assert "attempt 2 holds the lease" in finding.advice
    assert TRAIN in done(store)


def test_damaged_state_is_quarantined(store: Store, cache: Path) -> None:
    fill(store)
    overwrite(store, BREAKABLE["weights"], "flip")
    with pytest.raises(Damaged) as damaged:
        load(store, ROOT, 1024, cache)
    quarantine_with_lease(store, ROOT, str(damaged.value), HOLDER, tokens=1024)
    assert (read_record(store, TRAIN), list_checkpoints(store, ROOT)) == (None, [512])
    assert history(store, ROOT)[-1].ended is not None


def test_quarantine_requires_the_lease(store: Store) -> None:
    fill(store)
    acquire(store, ROOT, TRAIN, HOLDER)
    with pytest.raises(LeaseHeld):
        quarantine_with_lease(store, ROOT, "why", HOLDER, tokens=1024)
    assert list_checkpoints(store, ROOT) == [512, 1024]


def test_failed_quarantine_releases_the_lease() -> None:
    store = in_memory_store()
    fill(store)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("delete", "*", "before"))
    with pytest.raises(StoreUnavailable):
        quarantine_with_lease(store, ROOT, "why", HOLDER, tokens=1024)
    quarantine_with_lease(store, ROOT, "why", HOLDER, tokens=1024)
    assert list_checkpoints(store, ROOT) == [512]


# --- gc


def remaining(store: Store) -> set[str]:
    """Return the existing checkpoint files, as attempt/tokens, and pointers, as tokens."""
    keys = [stat.key.removeprefix(f"{ROOT}/") for stat in store.objects.list(ROOT)]
    files = {f"{int(key.split('/')[1])}/{key.split('/')[3]}" for key in keys if "/checkpoints/" in key}
    return files | {key.removeprefix("checkpoints/").removesuffix(".json") for key in keys if key.startswith("checkpoints/")}


def test_gc_keeps_only_states_of_a_plan(store: Store) -> None:
    freeze(store, plan([train(2048), evaluation(1024), cooldown(512, start=1536)]), {})
    run_attempt(store, train(2048), 512, 1024, 1536, 1600, 2048)
    gone = gc(store, dry_run=False)
    assert remaining(store) == {"1024", "1536", "2048", "1/1024", "1/1536", "1/2048"}
    assert {removal.key for removal in gone if removal.key.endswith(".json") and "attempts" not in removal.key} == {
        checkpoint_pointer_key(ROOT, 512),
        checkpoint_pointer_key(ROOT, 1600),
    }
    assert gc(store, dry_run=False) == []
    assert verify(store, repair=False) == []


def test_dry_run_reports_the_same_and_removes_nothing(store: Store) -> None:
    freeze(store, plan([train(1024)]), {})
    run_attempt(store, train(1024), 512, 1024)
    before = remaining(store)
    reported = gc(store, dry_run=True)
    assert remaining(store) == before
    assert gc(store, dry_run=False) == reported
    assert sum(removal.bytes for removal in reported if removal.key.endswith("weights")) == 1000


def test_gc_keeps_the_checkpoint_that_an_unfinished_task_resumes_from(store: Store) -> None:
    freeze(store, plan([train(1024), train(4096)]), {})
    run_attempt(store, train(1024), 512, 1024, 1536, 2048, recorded=True)
    gc(store, dry_run=False)
    assert remaining(store) == {"1024", "2048", "1/1024", "1/2048"}


def test_gc_keeps_checkpoints_of_a_live_attempt(store: Store, clock: Clock) -> None:
    run_attempt(store, train(8192), 512, 1024, 1536, ends=True, recorded=False)
    lease = acquire(store, ROOT, create_task(store, train(8192)), HOLDER)
    lease.start_from(1024)
    publish(store, lease, 2048, {"weights": b"w"}, {})
    publish(store, lease, 2560, {"weights": b"w"}, {})
    artifacts.write_bytes(store, lease.key("checkpoints", "3072", "weights"), b"not published yet")
    gc(store, dry_run=False)
    assert remaining(store) == {"1024", "1/1024", "2560", "2/2560", "2/3072"}
    clock.advance(100_000)
    gc(store, dry_run=False)
    assert remaining(store) == set()


def test_gc_keeps_the_state_of_a_live_evaluation_without_a_plan(store: Store) -> None:
    run_attempt(store, train(1024), 512, 1024, recorded=False)
    lease = acquire(store, root_of(evaluation(512)), create_task(store, evaluation(512)), HOLDER)
    gc(store, dry_run=False)
    assert remaining(store) == {"512", "1/512"}
    lease.end("done", 0)
    gc(store, dry_run=False)
    assert remaining(store) == set()


def test_gc_keeps_the_state_of_a_record_without_a_plan(store: Store) -> None:
    run_attempt(store, train(1024), 512, 1024)
    gc(store, dry_run=False)
    assert remaining(store) == {"1024", "1/1024"}
    assert verify(store, repair=False) == []


def test_gc_removes_unreferenced_files_and_keeps_metrics(store: Store) -> None:
    freeze(store, plan([train(1024)]), {})
    run_attempt(store, train(1024), 1024)
    for name in ("weights", "optimizer"):
        store.objects.put(f"{ROOT}/attempts/000001/checkpoints/700/{name}", b"half a checkpoint")
    assert {removal.why for removal in gc(store, dry_run=False)} == {"not referenced by any manifest"}
    assert remaining(store) == {"1024", "1/1024"}
    assert series(store, ROOT).num_rows == 1


def test_gc_stops_at_an_unreadable_plan(store: Store) -> None:
    fill(store)
    store.objects.put(plan_key("e" * 64), b"{}")
    with pytest.raises(Damaged, match="plans/eee"):
        gc(store, dry_run=False)
    assert remaining(store) == {"512", "1024", "1/512", "1/1024"}


def test_gc_skips_a_trajectory_with_a_damaged_checkpoint(store: Store) -> None:
    fill(store)
    overwrite(store, BREAKABLE["pointer"], "cut")
    assert gc(store, dry_run=False) == []
    verify(store, repair=True)
    gc(store, dry_run=False)
    assert remaining(store) == {"512", "1/512"}  # the checkpoint that the repeated task resumes from


@pytest.mark.parametrize("operation", range(9))
def test_interrupted_gc_leaves_no_dangling_pointer(operation: int) -> None:
    store = in_memory_store()
    freeze(store, plan([train(1536)]), {})
    run_attempt(store, train(1536), 512, 1024, 1536)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("delete", "*", "before", skip=operation, times=-1))
    with suppress(StoreUnavailable):
        gc(store, dry_run=False)
    store.objects.faults.clear()
    assert verify(store, repair=False) == []
    gc(store, dry_run=False)
    assert remaining(store) == {"1536", "1/1536"}


STEPS = st.integers(1, 12).map(lambda steps: steps * 512)


@settings(max_examples=40)
@given(checkpoints=st.sets(STEPS), ends=st.sets(STEPS, min_size=1), recorded=st.sets(STEPS), states=st.sets(STEPS))
def test_gc_never_costs_a_planned_task_any_tokens(checkpoints: set[int], ends: set[int], recorded: set[int], states: set[int]) -> None:
    """Each unfinished task resumes from the same checkpoint as before, and each planned state still loads."""
    store = in_memory_store()
    freeze(store, plan([*map(train, ends), *map(evaluation, states)]), {})
    run_attempt(store, train(max(ends)), *sorted(checkpoints), recorded=False)
    for tokens in recorded & ends:
        publish_record(store, record(train(tokens)))
    before = {end: _highest(store, end) for end in ends - recorded}
    there = set(list_checkpoints(store, ROOT))
    gc(store, dry_run=False)
    assert {end: _highest(store, end) for end in ends - recorded} == before
    assert (states | ends) & there <= set(list_checkpoints(store, ROOT))


def _highest(store: Store, at_most: int) -> int | None:
    return max((tokens for tokens in list_checkpoints(store, ROOT) if tokens <= at_most), default=None)


def test_plan_of_a_newer_version_is_reported_and_kept(store: Store) -> None:
    fill(store)
    digest, _ = current(store, "small")  # type: ignore[misc]
    newer = store.objects.get(plan_key(digest)).replace(b'"version":1', b'"version":2')
    key = plan_key(hashlib.sha256(newer).hexdigest())
    store.objects.put(key, newer)
    (finding,) = verify(store, repair=True)
    assert (finding.key, finding.repaired) == (key, False)
    assert "this installation reads version 1" in finding.problem
    assert store.objects.get(key) == newer
