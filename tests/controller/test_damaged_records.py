"""A task whose record is damaged or missing is not done for the controller, whatever `done/` says, and runs again."""

import pytest

from orchestrator.controller.lease_cache import LeaseCache
from orchestrator.store.addresses import done_key, record_key
from orchestrator.store.records import read_record
from tests.controller.scenarios import SMALL, undisturbed
from tests.store.samples import overwrite


@pytest.mark.parametrize("change", ["cut", "empty", "remove", "flip"])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_task_with_a_damaged_record_runs_again(kind: str, change: str) -> None:
    simulated = undisturbed(**SMALL)
    before = len(simulated.ran)
    records = {digest: read_record(simulated.store, digest) for digest in simulated.ran}
    digest = next(digest for digest, record in reversed(records.items()) if record is not None and record.identity["kind"] == kind)
    overwrite(simulated.store, record_key(digest), change)
    simulated.store.objects.stat(done_key(digest))

    loop = simulated.controller()
    simulated.edit(budget={"gpuHours": 100})
    simulated.step(loop)
    assert simulated.status()["counts"]["tasksDone"] == len(records) - 1
    simulated.run_to_the_end(loop)

    assert simulated.status()["phase"] == "Succeeded"
    assert simulated.ran[before:] == [digest]
    assert read_record(simulated.store, digest) == records[digest]
    assert (change != "remove") == any(simulated.store.objects.list(f"damaged/tasks/{digest}"))


def test_records_are_read_once_and_damaged_ones_until_they_are_replaced() -> None:
    simulated = undisturbed(**SMALL)
    first, *others = simulated.ran
    body = simulated.store.objects.get(record_key(first))
    overwrite(simulated.store, record_key(first), "cut")
    cache = LeaseCache(simulated.store)

    def reads() -> list[str]:
        seen = len(simulated.objects.log)
        cache.read_done()
        cache.check_records(simulated.ran)
        return [key for name, key in simulated.objects.log[seen:] if name == "get" and key.startswith("tasks/")]

    assert sorted(reads()) == sorted(map(record_key, simulated.ran))
    assert (set(cache.done), list(cache.damaged_records)) == (set(others), [first])
    assert reads() == [record_key(first)]
    simulated.store.objects.put(record_key(first), body)
    assert reads() == [record_key(first)]
    assert (set(cache.done), dict(cache.damaged_records)) == (set(simulated.ran), {})
    assert reads() == []


def test_quarantined_record_is_forgotten() -> None:
    simulated = undisturbed(**SMALL)
    cache, digest = LeaseCache(simulated.store), simulated.ran[0]
    cache.read_done()
    cache.check_records(simulated.ran)
    simulated.store.objects.delete(done_key(digest))
    simulated.store.objects.delete(record_key(digest))
    cache.read_done()
    cache.check_records(simulated.ran)
    assert digest not in cache.done
    assert cache.damaged_records == {}
