"""The lease cache."""

from datetime import timedelta

from orchestrator.controller.lease_cache import REREAD_AFTER, LeaseCache
from orchestrator.store.addresses import lease_key
from orchestrator.store.leases import Holder, acquire
from tests.controller.simulated_cluster import SimulatedCluster


def test_leases_are_read_again_only_while_they_may_change() -> None:
    simulated = SimulatedCluster()
    cache = LeaseCache(simulated.store)
    lease = acquire(simulated.store, "tasks/" + "a" * 64, "a" * 64, Holder(gpus=2, study="mine", lease_seconds=60))
    root, now = lease.work_root, simulated.clock()

    def reads(depends_on: str, hot: bool, later: timedelta, study: str = "mine") -> int:
        before = len(simulated.objects.log)
        cache.read_leases(study, {root: depends_on}, [root] if hot else [], now + later)
        return len(simulated.objects.log) - before

    assert reads("running", True, timedelta(0)) > 0
    assert reads("running", True, timedelta(seconds=1)) == 0
    assert reads("running", True, REREAD_AFTER) > 0
    assert reads("ended", False, REREAD_AFTER) > 0
    simulated.clock.advance(30)
    lease.end("in a test", 0)
    assert reads("done", False, REREAD_AFTER) > 0
    assert reads("done", False, timedelta(days=1)) == 0
    assert reads("other tasks on it", False, timedelta(days=1), "yours") > 0
    assert reads("done", False, timedelta(days=1)) == 0, "studies that share a trajectory have different tasks on it"
    assert cache.gpu_seconds([root], "mine") == 60
    assert cache.gpu_seconds([root], "yours") == 0
    assert cache.causes([root], "mine") == {"done": 60}


def test_recording_a_failure_in_a_removed_lease_does_nothing() -> None:
    simulated = SimulatedCluster()
    cache = LeaseCache(simulated.store)
    lease = acquire(simulated.store, "tasks/" + "a" * 64, "a" * 64, Holder(study="mine"))
    cache.read_leases("mine", {lease.work_root: "killed"}, [], simulated.clock())
    simulated.store.objects.delete(lease_key(lease.work_root, lease.number))
    cache.record_failure(lease.work_root, lease.number, "OOMKilled")
    cache.read_leases("mine", {lease.work_root: "killed"}, [], simulated.clock())
    assert cache.highest_run([lease.work_root], "mine", simulated.clock()) == 0
