"""Leader election."""

from orchestrator.cluster.memory import ClusterFault, InMemoryCluster
from orchestrator.controller.election import Election
from tests.controller.simulated_cluster import Clock


def test_one_of_two_controllers_leads_until_it_resigns_or_its_lease_expires() -> None:
    clock = Clock()
    cluster = InMemoryCluster(clock=clock)
    first, second = (Election(cluster, "lease", name, 15, clock.seconds) for name in ("first", "second"))
    first.campaign()
    second.campaign()
    assert (first.is_leader, second.is_leader) == (True, False)
    clock.advance(14.5)
    assert not first.is_leader, "it stops leading before another controller can acquire the lease"
    second.campaign()
    assert not second.is_leader
    clock.advance(1)
    second.campaign()
    first.campaign()
    assert (first.is_leader, second.is_leader) == (False, True)
    second.resign()
    first.campaign()
    assert (first.is_leader, second.is_leader) == (True, False)


def test_an_api_outage_shorter_than_the_lease_keeps_the_leader() -> None:
    clock = Clock()
    cluster = InMemoryCluster(clock=clock)
    election = Election(cluster, "lease", "first", 15, clock.seconds)
    election.campaign()
    cluster.faults.append(ClusterFault("acquire_lease", times=2))
    clock.advance(5)
    election.campaign()
    assert election.is_leader
    clock.advance(5)
    election.campaign()
    assert election.is_leader
    clock.advance(5)
    assert not election.is_leader
