"""What the product survives on a real cluster, with the real controller: each trial is a study of its own, disturbed in its middle.

A trial says what is exact afterwards: no cell lost, no result counted twice, every result that of an undisturbed run. Trials run side by
side, because most of their time is waiting; each is a test of its own by its name. What disturbs everybody at once is in
`test_survives_outages`.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from orchestrator.contract.vocabulary import ANNOTATION_RETRY, ExitCode
from orchestrator.store import addresses
from orchestrator.store.quarantine import move_record_aside
from orchestrator.store.records import read_record
from tests.e2e.kubectl import Document, eventually
from tests.e2e.survival import BRANCHED, LONGEST, ONE, OTHERWISE, TINY, Controller, Ground, Trial, within

pytestmark = pytest.mark.cluster

AT_ONCE = 4
TRIALS: dict[str, Callable[[Ground], None]] = {}


def trial(run: Callable[[Ground], None]) -> Callable[[Ground], None]:
    TRIALS[run.__name__] = run
    return run


@pytest.fixture(scope="module")
def outcomes(ground: Ground, controller: Controller, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:  # noqa: ARG001
    """Of the trials that are asked for, all begun at once."""
    asked = [item.callspec.params["name"] for item in request.session.items if item.module is request.module]  # type: ignore[attr-defined]
    threads = ThreadPoolExecutor(AT_ONCE)
    yield {name: threads.submit(TRIALS[name], ground) for name in asked}
    threads.shutdown(cancel_futures=True)


@trial
def a_workflow_that_is_deleted_by_hand_comes_again(ground: Ground) -> None:
    study = ground.applied("deleted")
    study.is_under_way()
    (workflow,) = study.workflows()
    ground.kubectl.run("delete", "workflow", workflow["metadata"]["name"], "--wait=false")
    study.succeeds()
    (again,) = study.workflows()
    assert again["metadata"]["uid"] != workflow["metadata"]["uid"]
    first, second = study.leases()
    assert first.ended is not None
    assert (first.ended.code, second.from_tokens > 0) == (ExitCode.STOPPED, True)


@trial
def a_study_paused_in_its_middle_goes_on_from_its_checkpoint(ground: Ground) -> None:
    study = ground.applied("paused")
    study.is_under_way()
    study.edit(paused=True)
    study.reaches("Paused")
    (lease,) = study.leases()
    assert lease.ended is not None
    assert lease.ended.code == ExitCode.STOPPED, "it has stopped when the status says so, and not before"
    study.edit(paused=False)
    study.succeeds()
    assert study.status()["runNumber"] == 2
    first, second = study.leases()
    assert second.from_tokens >= first.tokens > 0, "not a step was lost"


@trial
def a_cell_taken_out_stops_and_one_put_in_runs(ground: Ground) -> None:
    study = ground.trial("edited", seeds=[2])
    after = ground.trial("edited", TINY)
    study.apply()
    study.is_under_way()
    after.apply()
    after.succeeds()
    eventually(lambda: study.leases()[-1].ended, "the cell that was taken out has stopped")
    ended = study.leases()[-1].ended
    assert ended is not None
    assert ended.code == ExitCode.STOPPED
    assert after.status()["planVersion"] == 2
    assert after.status()["counts"]["cells"] == 1


@trial
def a_study_that_no_node_takes_waits_with_the_reason(ground: Ground) -> None:
    study = ground.trial("homeless", TINY, execution={"nodeSelector": {"scaling-study.dev/test": ground.kubectl.namespace}})
    study.apply()
    told = eventually(lambda: waits_for(study, "Unschedulable"), "why its pod waits")
    assert "node" in told
    ground.kubectl.run("label", "node", ground.here, f"scaling-study.dev/test={ground.kubectl.namespace}", "--overwrite")
    try:
        study.succeeds()
    finally:
        ground.kubectl.run("label", "node", ground.here, "scaling-study.dev/test-")


@trial
def a_pod_over_the_quota_waits_with_the_reason_until_the_quota_is_raised(ground: Ground) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none-of-this-class", "namespace": ground.kubectl.namespace},
        "spec": {
            "hard": {"pods": "0"},
            "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["scaling-study-test"]}]},
        },
    }
    ground.kubectl.apply(
        quota,
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "scaling-study-test"}, "value": 0},
    )
    try:
        study = ground.applied("quota", TINY, execution={"priorityClass": "scaling-study-test"})
        told = eventually(lambda: waits_for(study, "exceeded quota"), "the quota is named")
        assert "none-of-this-class" in told
        ground.kubectl.run("delete", "resourcequota", "none-of-this-class")
        study.succeeds()
        assert "quota" not in study.condition("Progressing")["message"]
        assert len(study.leases()) == 1
    finally:
        ground.kubectl.run("delete", "priorityclass", "scaling-study-test")


@trial
def a_pod_that_admission_refuses_is_named_and_tried_again_when_a_person_says_so(ground: Ground) -> None:
    study = ground.applied("refused", TINY, execution={"priorityClass": "not-there-at-all"})
    study.reaches("Failed")
    (cell,) = study.status()["failedCells"]
    assert "not-there-at-all" in cell["reason"]
    assert "not-there-at-all" in study.condition("Degraded")["message"]
    assert "CellFailed" in study.events()
    assert not study.leases()
    study.edit(execution={"priorityClass": None})
    ground.kubectl.run("annotate", "sstudy", study.name, f"{ANNOTATION_RETRY}=2")
    study.reaches("Running", "Succeeded")
    study.succeeds()
    assert study.condition("Degraded")["status"] == "False"


@trial
def an_image_that_is_not_there_is_named_within_a_minute(ground: Ground) -> None:
    study = ground.applied("image", TINY, execution={"image": "localhost/not-there:1"})
    eventually(study.pods, "there is a pod")
    seconds = within(60, lambda: waits_for(study, "not-there:1"), "the image is named")
    assert seconds < 60
    assert len(study.pods()) == 1
    ground.kubectl.run("delete", "sstudy", study.name, "--wait=false")
    eventually(lambda: not study.pods(), "its pods go with the study")


@trial
def a_task_without_enough_memory_is_final_and_named(ground: Ground) -> None:
    study = ground.applied("memory", execution={"resources": {"train": {"memory": "90Mi"}}})
    study.reaches("Failed")
    (cell,) = study.status()["failedCells"]
    assert "OOMKilled" in cell["reason"]
    assert len(study.workflows()) == 1
    assert len(study.leases()) <= 1


@trial
def a_pod_that_is_evicted_is_told_and_goes_on(ground: Ground) -> None:
    study = ground.applied("evicted")
    study.is_under_way()
    (pod,) = study.pods()
    evict(study, pod["metadata"]["name"])
    study.succeeds()
    assert "EvictionByEvictionAPI" in study.events()["Preempted"]
    assert [lease.ended and lease.ended.code for lease in study.leases()] == [ExitCode.STOPPED, ExitCode.DONE]


def evict(study: Trial, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": study.kubectl.namespace}}
    path = f"/api/v1/namespaces/{study.kubectl.namespace}/pods/{pod}/eviction"
    study.kubectl.run("create", "--raw", path, "-f", "-", given=json.dumps(body))


@trial
def an_input_damaged_by_hand_is_found_by_who_reads_it_and_made_again(ground: Ground) -> None:
    study = ground.trial("damaged", BRANCHED)
    prepare = next(digest for digest, task in study.plan.tasks.items() if "english" in task.label)
    record = read_record(study.store, prepare)
    assert record is not None
    shard = next(artifact for artifact in record.artifacts.values() if artifact.key.endswith(".bin"))
    study.store.objects.put(shard.key, study.store.objects.get(shard.key)[:-7])
    study.apply()
    study.succeeds()
    assert [stat.key for stat in study.store.objects.list("damaged") if prepare in stat.key]
    again = read_record(study.store, prepare)
    assert again is not None
    assert sorted(artifact.sha256 for name, artifact in again.artifacts.items() if name != "manifest") == sorted(
        artifact.sha256 for name, artifact in record.artifacts.items() if name != "manifest"
    )


@trial
def a_record_cut_by_hand_is_moved_aside_and_costs_no_training(ground: Ground) -> None:
    study = ground.applied("cut", TINY)
    study.succeeds()
    (train,) = study.trains
    key = addresses.record_key(train)
    study.store.objects.put(key, study.store.objects.get(key)[:100])
    # as `store verify --repair` does
    move_record_aside(study.store, train, "cut in a test")
    eventually(lambda: len(study.leases()) > 1, "somebody works on it again")
    eventually(lambda: study.phase() == "Succeeded" and read_record(study.store, train), "it is done again")
    again = read_record(study.store, train)
    assert again is not None
    assert dict(again.results) == study.reference.results[train]
    assert again.attempts[-1].from_tokens == again.results["tokens"], "its checkpoint was there"


@trial
def two_studies_that_share_a_trunk_train_it_once(ground: Ground) -> None:
    first, second = (ground.trial(name, recipe, store="shared") for name, recipe in (("first", BRANCHED), ("second", OTHERWISE)))
    first.kubectl.apply(first.body, second.body)
    first.succeeds()
    second.succeeds()
    (trunk,) = set(first.trains) & set(second.trains)
    (lease,) = first.leases(trunk)
    (record,) = [read_record(first.store, trunk)]
    assert record is not None
    assert [attempt.number for attempt in record.attempts] == [lease.number]


@trial
def fifty_studies_at_once_all_succeed_and_do_what_they_share_once(ground: Ground) -> None:
    one = ground.trial("fifty-00", TINY, store="fifty")
    bodies: list[Document] = [{**one.body, "metadata": {"name": f"fifty-{number:02}"}} for number in range(50)]
    ground.kubectl.apply(*bodies)

    def phases() -> list[str]:
        items = ground.kubectl.json("get", "sstudy")["items"]
        return [item.get("status", {}).get("phase", "") for item in items if item["metadata"]["name"].startswith("fifty-")]

    eventually(lambda: phases() == ["Succeeded"] * 50, "all fifty have succeeded", LONGEST)
    one.is_exact()
    assert len(one.leases()) == 1


@trial
def a_second_controller_that_runs_beside_the_first_does_no_harm(ground: Ground) -> None:
    """The worst case, which election prevents: both work at once."""
    beside = Controller(ground.kubectl.namespace, ground.folder / "beside.log", "--alone").start()
    try:
        study = ground.applied("beside", BRANCHED, {**ONE, "seeds": [1]})
        study.is_under_way()
        study.edit(paused=True)
        study.reaches("Paused")
        study.edit(paused=False)
        study.succeeds()
    finally:
        beside.stop()
    assert "Traceback" not in beside.log.read_text()


def waits_for(study: Trial, words: str) -> str:
    """What the status says of what waits, if it says that."""
    told = str(study.condition("Progressing").get("message", ""))
    return told if words in told else ""


@pytest.mark.parametrize("name", TRIALS)
def test_it_survives(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
