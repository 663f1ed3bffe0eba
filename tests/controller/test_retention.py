"""Clearing the stores of a namespace: said first, done when asked, and told in the status of the studies."""

from orchestrator.controller.retention import clear
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.store.checkpoints import kept, publish
from orchestrator.store.leases import Holder, take
from orchestrator.store.maintenance import last_look
from tests.controller.simulated_cluster import Played

ABANDONED = "trajectories/" + "c" * 64


def with_a_checkpoint_that_nobody_needs(played: Played) -> None:
    played.apply()
    lease = take(played.store, ABANDONED, "c" * 64, Holder())
    publish(played.store, lease, 512, {"weights": b"w" * 1000}, {})
    lease.end("stopped", 75)


def accepted(played: Played) -> None:
    """The controller has looked, at everything."""
    played.turn(played.controller())


def test_the_store_of_a_refused_study_is_not_opened_and_that_is_told() -> None:
    played = Played()
    with_a_checkpoint_that_nobody_needs(played)
    played.apply("refused", store="memory://forbidden", execution={})
    accepted(played)
    played.apply("unseen", store="memory://new")
    opened: list[str] = []

    def open_named(url: str) -> Store:
        opened.append(url)
        return played.store

    told = {url: (words, is_well) for url, words, is_well in clear(played.cluster, open_named, remove=True)}
    assert opened == ["memory://played"]
    assert told["memory://forbidden"][0].startswith("skipped, since refused is not accepted (ImageMissing: ")
    assert told["memory://new"] == ("skipped, since unseen is not accepted (the controller has not looked at it yet)", True)


def test_it_says_what_would_go_and_removes_it_only_when_asked() -> None:
    played = Played()
    with_a_checkpoint_that_nobody_needs(played)
    accepted(played)
    ((url, told, is_well),) = clear(played.cluster, lambda _: played.store, remove=False)
    assert (url, is_well) == ("memory://played", True)
    assert "would go" in told
    assert kept(played.store, ABANDONED) == [512]
    ((_, told, _),) = clear(played.cluster, lambda _: played.store, remove=True)
    assert "removed" in told
    assert kept(played.store, ABANDONED) == []


def test_the_status_tells_what_was_found() -> None:
    played = Played()
    with_a_checkpoint_that_nobody_needs(played)
    loop = played.controller()
    played.turn(loop)
    assert "retention" not in played.status()
    list(clear(played.cluster, lambda _: played.store, remove=False))
    played.turn(loop, 6)
    look = last_look(played.store)
    assert look is not None
    assert look.size > 1000
    assert played.status()["retention"] == {
        "lookedAt": f"{look.at:%Y-%m-%dT%H:%M:%SZ}",
        "objects": look.count,
        "bytes": look.size,
        "removed": False,
    }


def test_a_store_that_is_away_keeps_nobody_from_the_others() -> None:
    played = Played()
    played.apply("mine")
    played.apply("other", store="memory://away")
    accepted(played)

    def open_named(url: str) -> Store:
        if url == "memory://away":
            raise StoreUnavailable("it is away")
        return played.store

    assert [(url, is_well) for url, _, is_well in clear(played.cluster, open_named, remove=False)] == [
        ("memory://away", False),
        ("memory://played", True),
    ]
