"""Garbage collection of the stores of a namespace: dry run, removal, and the status of the studies."""

from orchestrator.controller.retention import collect_garbage
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.store.checkpoints import list_checkpoints, publish
from orchestrator.store.leases import Holder, acquire
from orchestrator.store.maintenance import read_gc_report
from tests.controller.simulated_cluster import SimulatedCluster

ABANDONED = "trajectories/" + "c" * 64


def add_unneeded_checkpoint(simulated: SimulatedCluster) -> None:
    simulated.apply()
    lease = acquire(simulated.store, ABANDONED, "c" * 64, Holder())
    publish(simulated.store, lease, 512, {"weights": b"w" * 1000}, {})
    lease.end("stopped", 75)


def accepted(simulated: SimulatedCluster) -> None:
    """Reconcile all studies once."""
    simulated.step(simulated.controller())


def test_the_store_of_a_refused_study_is_skipped_and_reported() -> None:
    simulated = SimulatedCluster()
    add_unneeded_checkpoint(simulated)
    simulated.apply("refused", store="memory://forbidden", execution={})
    accepted(simulated)
    simulated.apply("unseen", store="memory://new")
    opened: list[str] = []

    def open_named(url: str) -> Store:
        opened.append(url)
        return simulated.store

    told = {url: (words, is_well) for url, words, is_well in collect_garbage(simulated.cluster, open_named, remove=True)}
    assert opened == ["memory://simulated"]
    assert told["memory://forbidden"][0].startswith("skipped, because refused is not accepted (ImageMissing: ")
    assert told["memory://new"] == ("skipped, because unseen is not accepted (the controller has not reconciled it yet)", True)


def test_a_dry_run_removes_nothing() -> None:
    simulated = SimulatedCluster()
    add_unneeded_checkpoint(simulated)
    accepted(simulated)
    ((url, told, is_well),) = collect_garbage(simulated.cluster, lambda _: simulated.store, remove=False)
    assert (url, is_well) == ("memory://simulated", True)
    assert "would be removed" in told
    assert list_checkpoints(simulated.store, ABANDONED) == [512]
    ((_, told, _),) = collect_garbage(simulated.cluster, lambda _: simulated.store, remove=True)
    assert "removed" in told
    assert list_checkpoints(simulated.store, ABANDONED) == []


def test_the_status_shows_the_report() -> None:
    simulated = SimulatedCluster()
    add_unneeded_checkpoint(simulated)
    loop = simulated.controller()
    simulated.step(loop)
    assert "retention" not in simulated.status()
    list(collect_garbage(simulated.cluster, lambda _: simulated.store, remove=False))
    simulated.step(loop, 6)
    look = read_gc_report(simulated.store)
    assert look is not None
    assert look.size > 1000
    assert simulated.status()["retention"] == {
        "lookedAt": f"{look.at:%Y-%m-%dT%H:%M:%SZ}",
        "objects": look.count,
        "bytes": look.size,
        "removed": False,
    }


def test_an_unreachable_store_does_not_block_the_others() -> None:
    simulated = SimulatedCluster()
    simulated.apply("mine")
    simulated.apply("other", store="memory://offline")
    accepted(simulated)

    def open_named(url: str) -> Store:
        if url == "memory://offline":
            raise StoreUnavailable("connection refused")
        return simulated.store

    assert [(url, is_well) for url, _, is_well in collect_garbage(simulated.cluster, open_named, remove=False)] == [
        ("memory://offline", False),
        ("memory://simulated", True),
    ]
