"""The parts of the loop: its queue, its watches, its election, its endpoints, and what a namespace allows."""

import re
import threading
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault, InMemoryCluster
from orchestrator.cluster.port import Cluster
from orchestrator.controller.__main__ import _parser, run
from orchestrator.controller.election import Election
from orchestrator.controller.http_server import serve
from orchestrator.controller.lease_cache import READ_AGAIN, Ledger
from orchestrator.controller.planning import run_number
from orchestrator.controller.queue import MOST_BACKOFF, WorkQueue
from orchestrator.controller.watching import Watches
from orchestrator.errors import ClusterError
from orchestrator.reconcile.policy import broken_rules, read_policy
from orchestrator.spec import read_object
from orchestrator.store.addresses import lease_key
from orchestrator.store.leases import Holder, take
from tests.controller.simulated_cluster import SPEC, Clock, Played

PATIENCE = 60


def test_a_study_stands_in_the_queue_once_at_its_earliest_time() -> None:
    clock = Clock()
    queue = WorkQueue(clock.seconds)
    queue.add("a", 10)
    queue.add("a", 5)
    queue.add("a", 20)
    queue.add("b")
    assert queue.take_due() == ["b"]
    clock.advance(5)
    assert queue.take_due() == ["a"]
    clock.advance(60)
    assert queue.take_due() == []


def test_a_study_that_fails_comes_back_later_and_later_until_it_succeeds() -> None:
    queue = WorkQueue(Clock().seconds)
    delays = [queue.add_failed("a") for _ in range(9)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, MOST_BACKOFF)
    queue.succeeded("a")
    assert queue.add_failed("a") == 1.0


def test_a_waiting_loop_hears_of_what_is_added() -> None:
    queue = WorkQueue()
    waiting = threading.Thread(target=queue.wait, args=(PATIENCE,))
    waiting.start()
    queue.add("a")
    waiting.join(PATIENCE / 2)
    assert not waiting.is_alive()


class Woken:
    """Who was woken, and whether all of it is to be listed again."""

    def __init__(self, cluster: Cluster) -> None:
        self.names: list[str] = []
        self.heard = threading.Event()
        self.relists = 0
        self.stop = threading.Event()
        self.watches = Watches(cluster, self.stop, self.wake, self.relist)

    def wake(self, name: str) -> None:
        self.names.append(name)
        self.heard.set()

    def relist(self) -> None:
        self.relists += 1


def test_a_watch_wakes_the_study_and_not_for_a_status_that_we_wrote() -> None:
    played = Played()
    played.apply()
    woken = Woken(played.cluster)
    woken.watches.listed({"scalingstudies": "0"})
    body = played.cluster.get("scalingstudies", "mine")
    assert body is not None
    played.cluster.patch_status("mine", {"phase": "Running"}, body["metadata"]["resourceVersion"])
    played.edit(paused=True)
    watching = threading.Thread(target=woken.watches.watch_once, args=("scalingstudies",), daemon=True)
    watching.start()
    assert woken.heard.wait(PATIENCE)
    while len(woken.names) < 2:
        woken.heard.clear()
        assert woken.heard.wait(PATIENCE)
    played.cluster.drop_watches()
    watching.join(PATIENCE)
    assert woken.names == ["mine", "mine"]


def test_a_watch_that_has_lost_its_place_asks_for_a_listing() -> None:
    played = Played()
    played.apply()
    woken = Woken(played.cluster)
    woken.watches.listed({"pods": "0"})
    played.cluster.forget()
    woken.watches.watch_once("pods")
    assert woken.relists == 1


def test_one_of_two_controllers_leads_until_it_resigns_or_is_gone() -> None:
    clock = Clock()
    cluster = InMemoryCluster(clock=clock)
    first, second = (Election(cluster, "lease", name, 15, clock.seconds) for name in ("first", "second"))
    first.campaign()
    second.campaign()
    assert (first.is_leader, second.is_leader) == (True, False)
    clock.advance(14.5)
    assert not first.is_leader, "it stops before another may begin"
    second.campaign()
    assert not second.is_leader
    clock.advance(1)
    second.campaign()
    first.campaign()
    assert (first.is_leader, second.is_leader) == (False, True)
    second.resign()
    first.campaign()
    assert (first.is_leader, second.is_leader) == (True, False)


def test_a_leader_survives_an_api_that_is_away_for_less_than_its_lease() -> None:
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


def test_the_whole_controller_runs_and_stops_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    played = Played()
    played.cluster = InMemoryCluster()
    stop = threading.Event()
    given = _parser().parse_args(["--port", "0", "--identity", "me", "--lease-seconds", "6"])
    controller = threading.Thread(target=run, args=(played.cluster, given, stop))
    controller.start()
    played.apply()
    done = threading.Event()
    for _ in range(PATIENCE * 10):
        if played.status().get("phase") == "Running":
            break
        done.wait(0.1)
    stop.set()
    controller.join(PATIENCE)
    assert not controller.is_alive()
    assert played.status()["phase"] == "Running"
    assert played.workflows()
    assert played.cluster.acquire_lease("scaling-study-controller", "another", 15), "the lease was given up"
    capsys.readouterr()


def test_probes_and_metrics_answer() -> None:
    server = serve(0, {"/healthz": lambda: (200, b"ok\n"), "/readyz": lambda: (503, b"not yet\n")})
    place = f"http://127.0.0.1:{server.server_address[1]}"
    with urllib.request.urlopen(f"{place}/healthz") as answer:
        assert answer.read() == b"ok\n"
    for path, code in (("readyz", 503), ("nothing", 404)):
        with pytest.raises(urllib.error.HTTPError) as problem:
            urllib.request.urlopen(f"{place}/{path}")
        assert problem.value.code == code
        problem.value.close()
    server.shutdown()
    server.server_close()


def test_metrics_tell_of_studies_tasks_and_gpu_seconds_and_forget_what_is_gone() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    played.run_to_the_end(loop)
    text = loop._metrics.text().decode()
    assert 'scaling_study_studies{phase="Succeeded"} 1.0' in text
    assert 'scaling_study_tasks{state="done",study="mine"} 19.0' in text
    assert re.search(r'scaling_study_gpu_seconds\{cause="done",study="mine"\} [1-9]', text)
    played.cluster.delete("scalingstudies", "mine")
    played.turn(loop)
    assert 'study="mine"' not in loop._metrics.text().decode()


@pytest.mark.parametrize(
    ("status", "asked", "is_paused", "expected"),
    [
        ({}, "", False, 1),
        ({"runNumber": 3, "phase": "Running"}, "", False, 3),
        ({"runNumber": 3, "phase": "Paused"}, "", True, 3),
        ({"runNumber": 3, "phase": "Paused"}, "", False, 4),
        ({"runNumber": 3, "phase": "Stopping"}, "", False, 4),
        ({"runNumber": 3, "phase": "Failed"}, "4", False, 4),
        ({"runNumber": 3, "phase": "Failed"}, "2", False, 3),
        ({"runNumber": 3, "phase": "Failed"}, "soon", False, 3),
    ],
)
def test_the_number_of_a_run(status: dict[str, Any], asked: str, is_paused: bool, expected: int) -> None:
    assert run_number(status, asked, is_paused) == expected


def test_leases_are_read_again_only_while_they_may_change() -> None:
    played = Played()
    ledger = Ledger(played.store)
    lease = take(played.store, "tasks/" + "a" * 64, "a" * 64, Holder(gpus=2, study="mine", lease_seconds=60))
    root, now = lease.work_root, played.clock()

    def reads(depends_on: str, hot: bool, later: timedelta, study: str = "mine") -> int:
        before = len(played.objects.log)
        ledger.read_leases(study, {root: depends_on}, [root] if hot else [], now + later)
        return len(played.objects.log) - before

    assert reads("running", True, timedelta(0)) > 0
    assert reads("running", True, timedelta(seconds=1)) == 0
    assert reads("running", True, READ_AGAIN) > 0
    assert reads("ended", False, READ_AGAIN) > 0
    played.clock.advance(30)
    lease.end("in a test", 0)
    assert reads("done", False, READ_AGAIN) > 0
    assert reads("done", False, timedelta(days=1)) == 0
    assert reads("other tasks on it", False, timedelta(days=1), "yours") > 0
    assert reads("done", False, timedelta(days=1)) == 0, "two studies on one trajectory know of different tasks"
    assert ledger.gpu_seconds([root], "mine") == 60
    assert ledger.gpu_seconds([root], "yours") == 0
    assert ledger.causes([root], "mine") == {"done": 60}


def test_a_lease_that_somebody_cleared_away_needs_no_last_word() -> None:
    played = Played()
    ledger = Ledger(played.store)
    lease = take(played.store, "tasks/" + "a" * 64, "a" * 64, Holder(study="mine"))
    ledger.read_leases("mine", {lease.work_root: "killed"}, [], played.clock())
    played.store.objects.delete(lease_key(lease.work_root, lease.number))
    ledger.give_up(lease.work_root, lease.number, "OOMKilled")
    ledger.read_leases("mine", {lease.work_root: "killed"}, [], played.clock())
    assert ledger.highest_run([lease.work_root], "mine", played.clock()) == 0


BROKEN: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"execution": {}}, {}, "ImageMissing"),
    ({"execution": {"image": "trainer:1", "storeSecret": "mlflow-backend"}}, {"storeSecrets": "store\nmore-*"}, "SecretNotAllowed"),
    ({"store": "folder"}, {}, "StoreNotShared"),
    ({"store": "file:///data/studies"}, {}, "StoreNotShared"),
    ({"execution": {"image": "trainer:1", "serviceAccount": "scaling-study-controller"}}, {}, "AccountNotAllowed"),
    ({"execution": {"image": "trainer:1", "storeSecret": "scaling-study-executor.service-account-token"}}, {}, "SecretNotAllowed"),
    ({}, {"images": "registry.example.com/*"}, "ImageNotAllowed"),
    ({}, {"queues": "research"}, "QueueNotAllowed"),
    ({"execution": {"image": "trainer:1", "queue": "other"}}, {"queues": "research\nmore"}, "QueueNotAllowed"),
    ({}, {"stores": "s3://studies/*"}, "StoreNotAllowed"),
    ({}, {"gpusPerPod": "0"}, "TooManyGpusPerPod"),
    ({"execution": {"image": "trainer:1", "gpusPerPod": {"0.03M": 9}}}, {"gpusPerPod": "8"}, "TooManyGpusPerPod"),
]


@pytest.mark.parametrize(("spec", "policy", "rule"), BROKEN)
def test_a_rule_that_is_broken_is_named(spec: dict[str, Any], policy: dict[str, str], rule: str) -> None:
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": {**SPEC, **spec}}
    assert [broken.rule for broken in broken_rules(read_object(body), read_policy(policy))] == [rule]


@pytest.mark.parametrize("secret", ["store", "more-1"])
def test_the_secret_of_all_and_those_of_the_list_may_be_named(secret: str) -> None:
    spec = {**SPEC, "execution": {"image": "trainer:1", "storeSecret": secret}}
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": spec}
    assert broken_rules(read_object(body), read_policy({"storeSecret": "store", "storeSecrets": "more-*"})) == ()


def test_a_policy_that_allows_it_breaks_nothing() -> None:
    body = {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": SPEC}
    policy = {
        "images": "other:*\ntrainer:*",
        "stores": "memory://*",
        "gpusPerPod": "1",
        "gpuHours": "",
        "tolerations": "[{operator: Exists}]",
    }
    assert broken_rules(read_object(body), read_policy(policy)) == ()
    assert read_policy(policy).pod_defaults == {"tolerations": [{"operator": "Exists"}]}
    assert read_policy(None).gpu_hours is None
    more = read_policy({"workflowsAtOnce": "4", "checkpointSeconds": "20"})
    assert (more.workflows_at_once, more.checkpoint_seconds) == (4, 20)
    assert (read_policy(None).workflows_at_once, read_policy(None).checkpoint_seconds) == (None, 600)


@pytest.mark.parametrize(
    "data", [{"gpuHour": "10"}, {"gpuHours": "ten"}, {"gpuHours": "-1"}, {"gpuHours": "inf"}, {"tolerations": "key: x"}, {"gpu": "abacus"}]
)
def test_a_policy_with_a_mistake_is_no_policy(data: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match="the policy"):
        read_policy(data)
