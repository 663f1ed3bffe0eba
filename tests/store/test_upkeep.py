"""Verify finds what is broken and lets it be made again; gc removes what nobody needs and nothing else."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.identity import digest_of
from orchestrator.contract.tasks import Task, digest_of_task
from orchestrator.errors import Damaged, LeaseHeld, StoreUnavailable
from orchestrator.store import Store, artifacts
from orchestrator.store.addresses import checkpoint_pointer_key, done_key, plan_key, record_key, task_key
from orchestrator.store.checkpoints import at, kept, publish
from orchestrator.store.leases import Holder, Lease, history, take
from orchestrator.store.maintenance import gc, move_aside, verify
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from orchestrator.store.metrics import append, series
from orchestrator.store.plans import freeze
from orchestrator.store.records import create_task, done, publish_record, read_record
from tests.store.samples import ROOT, Clock, cooldown, evaluation, overwrite, plan, record, root_of, train

HOLDER = Holder(study="s")


def worked(store: Store, task: Task, *checkpoints: int, ends: bool = True, recorded: bool = True) -> Lease:
    """An attempt at `task` that wrote these checkpoints, some metrics, and its record."""
    lease = take(store, root_of(task), create_task(store, task), HOLDER)
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


def whole_store(store: Store) -> None:
    freeze(store, plan([train(1024), evaluation(1024)]), {})
    worked(store, train(1024), 512, 1024)
    worked(store, evaluation(1024))


TRAIN, EVALUATE = digest_of_task(train(1024)), digest_of_task(evaluation(1024))


def test_a_whole_store_has_no_findings(store: Store) -> None:
    whole_store(store)
    before = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")}
    assert verify(store, repair=True) == []
    assert {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")} == before


def test_an_empty_store_has_no_findings(store: Store) -> None:
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
def test_what_is_broken_is_found_moved_aside_and_found_no_more(store: Store, what: str, change: str) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE[what], change)
    found = verify(store, repair=False)
    lost_without_a_trace = (what, change) == ("pointer", "remove")
    assert bool(found) != lost_without_a_trace
    assert not any(finding.repaired for finding in found)
    repaired = verify(store, repair=True)
    assert [finding.key for finding in repaired] == [finding.key for finding in found]
    assert all(finding.repaired for finding in repaired)
    assert verify(store, repair=True) == []


@pytest.mark.parametrize("what", ["artifact", "weights"])
def test_a_flipped_byte_is_found(store: Store, what: str) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE[what], "flip")
    (finding,) = verify(store, repair=True)
    assert "has changed since it was written" in finding.problem
    undone = {"artifact": EVALUATE, "weights": TRAIN}[what]
    assert done(store) == {TRAIN, EVALUATE} - {undone}


def test_looking_alone_changes_nothing(store: Store) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE["record"], "cut")
    store.objects.delete(done_key(TRAIN))
    before = {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")}
    assert len(verify(store, repair=False)) == 2
    assert {stat.key: store.objects.get(stat.key) for stat in store.objects.list("")} == before


def test_markers_are_put_right_both_ways(store: Store) -> None:
    whole_store(store)
    store.objects.delete(done_key(TRAIN))
    store.objects.put(done_key("f" * 64), b"")
    assert [finding.key for finding in verify(store, repair=True)] == [record_key(TRAIN), done_key("f" * 64)]
    assert done(store) == {TRAIN, EVALUATE}


@pytest.mark.parametrize(
    ("key", "advice"), [(task_key(TRAIN), "run or apply the study again"), (plan_key(digest_of("x")), "run FILE --replan` writes it anew")]
)
def test_what_only_a_new_plan_can_mend_is_told_so(store: Store, key: str, advice: str) -> None:
    whole_store(store)
    store.objects.put(key, b"{}")
    (finding,) = verify(store, repair=True)
    assert (finding.key, finding.repaired) == (key, False)
    assert advice in finding.problem + finding.advice


def test_a_damaged_table_of_metrics_costs_its_rows_and_nothing_else(store: Store) -> None:
    whole_store(store)
    key = next(stat.key for stat in store.objects.list(f"{ROOT}/attempts/000001/metrics"))
    overwrite(store, key, "flip")
    (finding,) = verify(store, repair=True)
    assert (finding.key, finding.repaired) == (key, True)
    assert series(store, ROOT).num_rows == 0
    assert done(store) == {TRAIN, EVALUATE}


def test_what_somebody_works_on_is_left_alone(store: Store) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE["weights"], "flip")
    take(store, ROOT, TRAIN, HOLDER)
    (finding,) = verify(store, repair=True)
    assert not finding.repaired
    assert "not moved aside" in finding.advice
    assert "attempt 2 holds the lease" in finding.advice
    assert TRAIN in done(store)


def test_a_damaged_state_is_moved_aside_by_whoever_needs_it(store: Store, cache: Path) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE["weights"], "flip")
    with pytest.raises(Damaged) as damaged:
        at(store, ROOT, 1024, cache)
    move_aside(store, ROOT, str(damaged.value), HOLDER, tokens=1024)
    assert (read_record(store, TRAIN), kept(store, ROOT)) == (None, [512])
    assert history(store, ROOT)[-1].ended is not None


def test_moving_aside_waits_for_the_lease(store: Store) -> None:
    whole_store(store)
    take(store, ROOT, TRAIN, HOLDER)
    with pytest.raises(LeaseHeld):
        move_aside(store, ROOT, "why", HOLDER, tokens=1024)
    assert kept(store, ROOT) == [512, 1024]


def test_a_fault_in_the_middle_of_moving_aside_gives_the_lease_back() -> None:
    store = in_memory_store()
    whole_store(store)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("delete", "*", "before"))
    with pytest.raises(StoreUnavailable):
        move_aside(store, ROOT, "why", HOLDER, tokens=1024)
    move_aside(store, ROOT, "why", HOLDER, tokens=1024)
    assert kept(store, ROOT) == [512]


# --- gc


def left(store: Store) -> set[str]:
    """Names of checkpoint files that are there, as attempt/tokens, and pointers as tokens."""
    keys = [stat.key.removeprefix(f"{ROOT}/") for stat in store.objects.list(ROOT)]
    files = {f"{int(key.split('/')[1])}/{key.split('/')[3]}" for key in keys if "/checkpoints/" in key}
    return files | {key.removeprefix("checkpoints/").removesuffix(".json") for key in keys if key.startswith("checkpoints/")}


def test_only_states_that_a_plan_names_are_kept(store: Store) -> None:
    freeze(store, plan([train(2048), evaluation(1024), cooldown(512, start=1536)]), {})
    worked(store, train(2048), 512, 1024, 1536, 1600, 2048)
    gone = gc(store, dry_run=False)
    assert left(store) == {"1024", "1536", "2048", "1/1024", "1/1536", "1/2048"}
    assert {removal.key for removal in gone if removal.key.endswith(".json") and "attempts" not in removal.key} == {
        checkpoint_pointer_key(ROOT, 512),
        checkpoint_pointer_key(ROOT, 1600),
    }
    assert gc(store, dry_run=False) == []
    assert verify(store, repair=False) == []


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    freeze(store, plan([train(1024)]), {})
    worked(store, train(1024), 512, 1024)
    before = left(store)
    said = gc(store, dry_run=True)
    assert left(store) == before
    assert gc(store, dry_run=False) == said
    assert sum(removal.bytes for removal in said if removal.key.endswith("weights")) == 1000


def test_an_unfinished_task_keeps_what_it_is_taken_up_from(store: Store) -> None:
    freeze(store, plan([train(1024), train(4096)]), {})
    worked(store, train(1024), 512, 1024, 1536, 2048, recorded=True)
    gc(store, dry_run=False)
    assert left(store) == {"1024", "2048", "1/1024", "1/2048"}


def test_what_a_live_attempt_took_up_writes_and_needs_is_kept(store: Store, clock: Clock) -> None:
    worked(store, train(8192), 512, 1024, 1536, ends=True, recorded=False)
    lease = take(store, ROOT, create_task(store, train(8192)), HOLDER)
    lease.start_from(1024)
    publish(store, lease, 2048, {"weights": b"w"}, {})
    publish(store, lease, 2560, {"weights": b"w"}, {})
    artifacts.write_bytes(store, lease.key("checkpoints", "3072", "weights"), b"not published yet")
    gc(store, dry_run=False)
    assert left(store) == {"1024", "1/1024", "2560", "2/2560", "2/3072"}
    clock.advance(100_000)
    gc(store, dry_run=False)
    assert left(store) == set()


def test_a_live_evaluation_of_no_plan_keeps_its_state(store: Store) -> None:
    worked(store, train(1024), 512, 1024, recorded=False)
    lease = take(store, root_of(evaluation(512)), create_task(store, evaluation(512)), HOLDER)
    gc(store, dry_run=False)
    assert left(store) == {"512", "1/512"}
    lease.end("done", 0)
    gc(store, dry_run=False)
    assert left(store) == set()


def test_what_a_record_promises_is_kept_without_a_plan(store: Store) -> None:
    worked(store, train(1024), 512, 1024)
    gc(store, dry_run=False)
    assert left(store) == {"1024", "1/1024"}
    assert verify(store, repair=False) == []


def test_files_that_no_manifest_names_are_removed_and_tables_stay(store: Store) -> None:
    freeze(store, plan([train(1024)]), {})
    worked(store, train(1024), 1024)
    for name in ("weights", "optimizer"):
        store.objects.put(f"{ROOT}/attempts/000001/checkpoints/700/{name}", b"half a checkpoint")
    assert {removal.why for removal in gc(store, dry_run=False)} == {"no manifest that counts points to it"}
    assert left(store) == {"1024", "1/1024"}
    assert series(store, ROOT).num_rows == 1


def test_gc_stops_at_a_plan_that_cannot_be_read(store: Store) -> None:
    whole_store(store)
    store.objects.put(plan_key("e" * 64), b"{}")
    with pytest.raises(Damaged, match="plans/eee"):
        gc(store, dry_run=False)
    assert left(store) == {"512", "1024", "1/512", "1/1024"}


def test_gc_leaves_a_trajectory_with_a_damaged_checkpoint_to_verify(store: Store) -> None:
    whole_store(store)
    overwrite(store, BREAKABLE["pointer"], "cut")
    assert gc(store, dry_run=False) == []
    verify(store, repair=True)
    gc(store, dry_run=False)
    assert left(store) == {"512", "1/512"}  # what the task that is to be done again is taken up from


@pytest.mark.parametrize("operation", range(9))
def test_gc_that_is_killed_leaves_no_pointer_to_files_that_are_gone(operation: int) -> None:
    store = in_memory_store()
    freeze(store, plan([train(1536)]), {})
    worked(store, train(1536), 512, 1024, 1536)
    assert isinstance(store.objects, InMemoryObjects)
    store.objects.faults.append(Fault("delete", "*", "before", skip=operation, times=-1))
    with suppress(StoreUnavailable):
        gc(store, dry_run=False)
    store.objects.faults.clear()
    assert verify(store, repair=False) == []
    gc(store, dry_run=False)
    assert left(store) == {"1536", "1/1536"}


STEPS = st.integers(1, 12).map(lambda steps: steps * 512)


@settings(max_examples=40)
@given(kept_at=st.sets(STEPS), ends=st.sets(STEPS, min_size=1), recorded=st.sets(STEPS), states=st.sets(STEPS))
def test_no_gc_costs_a_planned_task_a_token(kept_at: set[int], ends: set[int], recorded: set[int], states: set[int]) -> None:
    """Whatever is planned, done and kept: each unfinished task is taken up where it would have been, and each planned state loads."""
    store = in_memory_store()
    freeze(store, plan([*map(train, ends), *map(evaluation, states)]), {})
    worked(store, train(max(ends)), *sorted(kept_at), recorded=False)
    for tokens in recorded & ends:
        publish_record(store, record(train(tokens)))
    before = {end: _highest(store, end) for end in ends - recorded}
    there = set(kept(store, ROOT))
    gc(store, dry_run=False)
    assert {end: _highest(store, end) for end in ends - recorded} == before
    assert (states | ends) & there <= set(kept(store, ROOT))


def _highest(store: Store, at_most: int) -> int | None:
    return max((tokens for tokens in kept(store, ROOT) if tokens <= at_most), default=None)
