"""Resilience on a real cluster with the real controller: each trial is a separate study that is disturbed while it runs.

A trial asserts that no cell is lost, no result is counted twice, and all results equal those of an undisturbed run. Trials run in parallel,
because they mostly wait; each is reported as a test of its name. Outages that affect all studies are in `test_survives_outages`.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.store import addresses
from orchestrator.store.quarantine import quarantine_record
from orchestrator.store.records import read_record
from tests.e2e.kubectl import Document, eventually
from tests.e2e.survival import BRANCHED, OTHER_COOLDOWN, SINGLE, TIMEOUT, TINY, Controller, Sandbox, Trial, within

pytestmark = pytest.mark.cluster

CONCURRENT_TRIALS = 4
TRIALS: dict[str, Callable[[Sandbox], None]] = {}


def trial(run: Callable[[Sandbox], None]) -> Callable[[Sandbox], None]:
    TRIALS[run.__name__] = run
    return run


@pytest.fixture(scope="module")
def outcomes(sandbox: Sandbox, controller: Controller, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:  # noqa: ARG001
    """Start all selected trials and return their futures by name."""
    selected = [item.callspec.params["name"] for item in request.session.items if item.module is request.module]  # type: ignore[attr-defined]
    threads = ThreadPoolExecutor(CONCURRENT_TRIALS)
    yield {name: threads.submit(TRIALS[name], sandbox) for name in selected}
    threads.shutdown(cancel_futures=True)


@trial
def deleted_workflow_is_submitted_again(sandbox: Sandbox) -> None:
    study = sandbox.applied("deleted")
    study.wait_for_checkpoint()
    (workflow,) = study.workflows()
    sandbox.kubectl.run("delete", "workflow", workflow["metadata"]["name"], "--wait=false")
    study.wait_for_success()
    (again,) = study.workflows()
    assert again["metadata"]["uid"] != workflow["metadata"]["uid"]
    first, second = study.leases()
    assert first.ended is not None
    assert (first.ended.code, second.from_tokens > 0) == (ExitCode.STOPPED, True)


@trial
def paused_study_resumes_from_its_checkpoint(sandbox: Sandbox) -> None:
    study = sandbox.applied("paused")
    study.wait_for_checkpoint()
    study.edit(paused=True)
    study.wait_for_phase("Paused")
    (lease,) = study.leases()
    assert lease.ended is not None
    assert lease.ended.code == ExitCode.STOPPED, "its pods have stopped when its phase is Paused"
    study.edit(paused=False)
    study.wait_for_success()
    assert study.status()["runNumber"] == 2
    first, second = study.leases()
    assert second.from_tokens >= first.tokens > 0, "no step was lost"


@trial
def removed_cell_stops_and_added_cell_runs(sandbox: Sandbox) -> None:
    study = sandbox.trial("edited", seeds=[2])
    after = sandbox.trial("edited", TINY)
    study.apply()
    study.wait_for_checkpoint()
    after.apply()
    after.wait_for_success()
    eventually(lambda: study.leases()[-1].ended, "the removed cell has stopped")
    ended = study.leases()[-1].ended
    assert ended is not None
    assert ended.code == ExitCode.STOPPED
    assert after.status()["planVersion"] == 2
    assert after.status()["counts"]["cells"] == 1


@trial
def unschedulable_study_reports_why_it_waits(sandbox: Sandbox) -> None:
    study = sandbox.trial("homeless", TINY, execution={"nodeSelector": {"scaling-study.dev/test": sandbox.kubectl.namespace}})
    study.apply()
    message = eventually(lambda: waiting_message(study, "Unschedulable"), "the reason why its pod waits")
    assert "node" in message
    sandbox.kubectl.run("label", "node", sandbox.main_node, f"scaling-study.dev/test={sandbox.kubectl.namespace}", "--overwrite")
    try:
        study.wait_for_success()
    finally:
        sandbox.kubectl.run("label", "node", sandbox.main_node, "scaling-study.dev/test-")


@trial
def pod_over_the_quota_waits_with_the_reason_until_the_quota_is_removed(sandbox: Sandbox) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none-of-this-class", "namespace": sandbox.kubectl.namespace},
        "spec": {
            "hard": {"pods": "0"},
            "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["scaling-study-test"]}]},
        },
    }
    sandbox.kubectl.apply(
        quota,
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "scaling-study-test"}, "value": 0},
    )
    try:
        study = sandbox.applied("quota", TINY, execution={"priorityClass": "scaling-study-test"})
        message = eventually(lambda: waiting_message(study, "exceeded quota"), "the quota is named")
        assert "none-of-this-class" in message
        sandbox.kubectl.run("delete", "resourcequota", "none-of-this-class")
        study.wait_for_success()
        assert "quota" not in study.condition("Progressing")["message"]
        assert len(study.leases()) == 1
    finally:
        sandbox.kubectl.run("delete", "priorityclass", "scaling-study-test")


@trial
def pod_rejected_by_admission_is_reported_and_retried_on_request(sandbox: Sandbox) -> None:
    study = sandbox.applied("refused", TINY, execution={"priorityClass": "not-there-at-all"})
    study.wait_for_phase("Failed")
    (cell,) = study.status()["failedCells"]
    assert "not-there-at-all" in cell["reason"]
    assert "not-there-at-all" in study.condition("Degraded")["message"]
    assert "CellFailed" in study.events()
    assert not study.leases()
    study.edit(execution={"priorityClass": None})
    sandbox.kubectl.run("annotate", "sstudy", study.name, f"{ANNOTATION_RETRY}=2")
    study.wait_for_phase("Running", "Succeeded")
    study.wait_for_success()
    assert study.condition("Degraded")["status"] == "False"


@trial
def missing_image_is_reported_within_a_minute(sandbox: Sandbox) -> None:
    study = sandbox.applied("image", TINY, execution={"image": "localhost/not-there:1"})
    eventually(study.pods, "there is a pod")
    seconds = within(60, lambda: waiting_message(study, "not-there:1"), "the image is named")
    assert seconds < 60
    assert len(study.pods()) == 1
    sandbox.kubectl.run("delete", "sstudy", study.name, "--wait=false")
    eventually(lambda: not study.pods(), "its pods are deleted with the study")


@trial
def task_killed_for_memory_fails_permanently_with_the_reason(sandbox: Sandbox) -> None:
    study = sandbox.applied("memory", execution={"resources": {"train": {"memory": "90Mi"}}})
    study.wait_for_phase("Failed")
    (cell,) = study.status()["failedCells"]
    assert "OOMKilled" in cell["reason"]
    assert len(study.workflows()) == 1
    assert len(study.leases()) <= 1


@trial
def evicted_pod_is_reported_and_its_task_resumes(sandbox: Sandbox) -> None:
    study = sandbox.applied("evicted")
    study.wait_for_checkpoint()
    (pod,) = study.pods()
    evict(study, pod["metadata"]["name"])
    study.wait_for_success()
    assert "EvictionByEvictionAPI" in study.events()["Preempted"]
    assert [lease.ended and lease.ended.code for lease in study.leases()] == [ExitCode.STOPPED, ExitCode.DONE]


def evict(study: Trial, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": study.kubectl.namespace}}
    path = f"/api/v1/namespaces/{study.kubectl.namespace}/pods/{pod}/eviction"
    study.kubectl.run("create", "--raw", path, "-f", "-", given=json.dumps(body))


@trial
def damaged_input_is_detected_by_its_reader_and_produced_again(sandbox: Sandbox) -> None:
    study = sandbox.trial("damaged", BRANCHED)
    prepare = next(digest for digest, task in study.plan.tasks.items() if "english" in task.label)
    record = read_record(study.store, prepare)
    assert record is not None
    shard = next(artifact for artifact in record.artifacts.values() if artifact.key.endswith(".bin"))
    study.store.objects.put(shard.key, study.store.objects.get(shard.key)[:-7])
    study.apply()
    study.wait_for_success()
    assert [stat.key for stat in study.store.objects.list("damaged") if prepare in stat.key]
    again = read_record(study.store, prepare)
    assert again is not None
    assert sorted(artifact.sha256 for name, artifact in again.artifacts.items() if name != "manifest") == sorted(
        artifact.sha256 for name, artifact in record.artifacts.items() if name != "manifest"
    )


@trial
def truncated_record_is_quarantined_and_rewritten_without_training(sandbox: Sandbox) -> None:
    study = sandbox.applied("cut", TINY)
    study.wait_for_success()
    (train,) = study.trains
    key = addresses.record_key(train)
    study.store.objects.put(key, study.store.objects.get(key)[:100])
    # as `store verify --repair` does
    quarantine_record(study.store, train, "cut in a test")
    eventually(lambda: len(study.leases()) > 1, "the task has another lease")
    eventually(lambda: study.phase() == "Succeeded" and read_record(study.store, train), "the task is done again")
    again = read_record(study.store, train)
    assert again is not None
    assert dict(again.results) == study.reference.results[train]
    assert again.attempts[-1].from_tokens == again.results["tokens"], "it resumed from its last checkpoint"


@trial
def two_studies_with_a_common_trunk_train_it_once(sandbox: Sandbox) -> None:
    first, second = (sandbox.trial(name, recipe, store="shared") for name, recipe in (("first", BRANCHED), ("second", OTHER_COOLDOWN)))
    first.kubectl.apply(first.body, second.body)
    first.wait_for_success()
    second.wait_for_success()
    (trunk,) = set(first.trains) & set(second.trains)
    (lease,) = first.leases(trunk)
    (record,) = [read_record(first.store, trunk)]
    assert record is not None
    assert [attempt.number for attempt in record.attempts] == [lease.number]


@trial
def fifty_concurrent_studies_succeed_and_run_common_tasks_once(sandbox: Sandbox) -> None:
    one = sandbox.trial("fifty-00", TINY, store="fifty")
    bodies: list[Document] = [{**one.body, "metadata": {"name": f"fifty-{number:02}"}} for number in range(50)]
    sandbox.kubectl.apply(*bodies)

    def phases() -> list[str]:
        items = sandbox.kubectl.json("get", "sstudy")["items"]
        return [item.get("status", {}).get("phase", "") for item in items if item["metadata"]["name"].startswith("fifty-")]

    eventually(lambda: phases() == ["Succeeded"] * 50, "all fifty have succeeded", TIMEOUT)
    one.assert_exact()
    assert len(one.leases()) == 1


@trial
def results_are_exact_with_two_active_controllers(sandbox: Sandbox) -> None:
    """The worst case, which leader election prevents: both controllers are active at once."""
    second_controller = Controller(sandbox.kubectl.namespace, sandbox.folder / "second_controller.log", "--alone").start()
    try:
        study = sandbox.applied("beside", BRANCHED, {**SINGLE, "seeds": [1]})
        study.wait_for_checkpoint()
        study.edit(paused=True)
        study.wait_for_phase("Paused")
        study.edit(paused=False)
        study.wait_for_success()
    finally:
        second_controller.stop()
    assert "Traceback" not in second_controller.log.read_text()


def waiting_message(study: Trial, words: str) -> str:
    """Return the message of the Progressing condition if it contains `words`, else ""."""
    message = str(study.condition("Progressing").get("message", ""))
    return message if words in message else ""


@pytest.mark.parametrize("name", TRIALS)
def test_study_survives_the_disturbance(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
