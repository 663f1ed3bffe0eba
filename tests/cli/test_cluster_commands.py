"""Commands for a study on a cluster, by the functions behind them: an in-memory cluster and a running controller."""

import copy
from typing import Any

import pytest

from orchestrator.cli.connect import StudyOnCluster
from orchestrator.cli.delete import delete_study, describe_deletion
from orchestrator.cli.resume import resume_study
from orchestrator.cli.retry import retry_study
from orchestrator.cli.stop import stop_study
from orchestrator.cli.submit import WaitOptions, submit_study
from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.port import Document
from orchestrator.cluster.study_object import explain_errors, find_object
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.controller.loop import Loop
from orchestrator.errors import ClusterError, ClusterUnavailable, NotFound, Refused
from orchestrator.store.plans import current
from tests.controller.simulated_cluster import SPEC, SimulatedCluster


@pytest.fixture
def study(simulated: SimulatedCluster) -> StudyOnCluster:
    return StudyOnCluster(simulated.cluster, "mine")


def values(**changes: Any) -> Document:
    """Return the content of a study file."""
    spec = copy.deepcopy(SPEC) | changes
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": spec}


def waiting(simulated: SimulatedCluster, loop: Loop | None, *, until_planned: bool = False) -> WaitOptions:
    """Return options whose sleep runs one iteration of the controller, if there is one."""

    def sleep(seconds: float) -> None:
        simulated.clock.advance(seconds)
        if loop is not None:
            simulated.step(loop)

    return WaitOptions(300.0 if until_planned else 5.0, until_planned, sleep, simulated.clock.seconds)


def submitted(study: StudyOnCluster, simulated: SimulatedCluster, loop: Loop | None, **changes: Any) -> tuple[bool, list[str]]:
    said: list[str] = []
    went = submit_study(study, values(**changes), waiting(simulated, loop), said.append)
    return went, said


def spec(simulated: SimulatedCluster) -> Document:
    found: Document = find_object(simulated.cluster, "mine")["spec"]
    return found


# submit


def test_a_new_study_is_created_and_the_verdict_is_printed(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    went, said = submitted(study, simulated, simulated.controller())
    assert went
    assert said[0] == "mine: created in namespace studies."
    assert said[1].startswith("accepted and planned: 2 cells, ")
    assert said[1].endswith("To follow it: scaling-study watch mine -n studies")


def test_resubmitting_changes_only_what_differs(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    submitted(study, simulated, loop)
    assert submitted(study, simulated, loop)[1][0] == "mine: unchanged in namespace studies."
    assert submitted(study, simulated, loop, budget={"gpuHours": 7})[1][0] == "mine: changed in namespace studies (spec.budget)."
    more = SPEC["grid"] | {"seeds": [1, 2]}
    message = submitted(study, simulated, loop, grid=more, budget={"gpuHours": 7})[1]
    assert message[0] == "mine: changed in namespace studies (spec.grid.seeds); a new plan is made, and completed tasks are kept."
    assert "4 cells" in message[1], "the verdict is about the new version"


def test_a_rejected_study_names_the_policy_rule(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    went, said = submitted(study, simulated, simulated.controller(), execution={})
    assert not went
    assert said[-1].startswith("rejected: ImageMissing: spec.execution.image: a cluster needs the trainer's image")


def test_waiting_without_a_controller_times_out(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    went, said = submitted(study, simulated, None)
    assert went
    assert "no controller has reconciled it yet" in said[-1]
    assert simulated.clock.seconds() < 10
    assert not submit_study(study, values(), waiting(simulated, None, until_planned=True), said.append), "--wait requires a plan"


def test_waiting_retries_while_the_cluster_is_unreachable(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop, said = simulated.controller(), list[str]()
    simulated.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=100))
    assert submit_study(study, values(), waiting(simulated, None, until_planned=True), said.append) is False
    assert simulated.clock.seconds() >= 300, "retried until the time limit"
    assert sum("is unreachable" in line for line in said) == 1, "the same error is printed once"
    simulated.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=3))
    assert submit_study(study, values(), waiting(simulated, loop, until_planned=True), said.append)
    assert said[-1].startswith("accepted and planned")


def test_a_cluster_that_stays_unreachable_is_an_error_after_the_time_limit(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    simulated.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=-1))
    with pytest.raises(ClusterUnavailable):
        submit_study(study, values(), waiting(simulated, None), lambda _: None)
    assert 5 <= simulated.clock.seconds() < 10


def test_submit_does_not_wait_for_fingerprinting_in_a_pod(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    unknown = copy.deepcopy(SPEC["data"])
    for source in unknown["sources"]:
        del source["fingerprint"]
    went, said = submitted(study, simulated, simulated.controller(), data=unknown)
    assert went
    assert said[-1].startswith("accepted; before planning, a pod reads the files")


def test_a_dry_run_saves_nothing(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    said: list[str] = []
    assert submit_study(study, values(), waiting(simulated, None), said.append, dry_run=True)
    assert said == ["mine: would be created in namespace studies. Nothing was saved."]
    assert simulated.cluster.get("scalingstudies", "mine") is None


def test_resubmitting_a_paused_study_keeps_it_paused(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    submitted(study, simulated, loop)
    stop_study(study)
    said = submitted(study, simulated, loop, budget={"gpuHours": 7})[1]
    assert spec(simulated)["paused"] is True
    assert "The study is paused; to resume: scaling-study resume mine -n studies" in said


# stop, resume


def test_stop_writes_checkpoints_and_resume_completes_every_cell(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    submitted(study, simulated, loop)
    simulated.step(loop)
    simulated.start_pods()
    message = stop_study(study)
    assert message.startswith("mine is stopping: ")
    assert message.endswith("To resume: scaling-study resume mine -n studies")
    simulated.step(loop)
    assert simulated.status()["phase"] == "Stopping"
    assert stop_study(study) == "mine is already paused (Stopping). To resume: scaling-study resume mine -n studies"
    simulated.start_pods()
    simulated.end_pods(ExitCode.STOPPED)
    simulated.step(loop)
    assert simulated.status()["phase"] == "Paused"
    assert "resumes from its checkpoints" in resume_study(study)
    assert "paused" not in spec(simulated)
    simulated.run_to_the_end(loop)
    assert simulated.status()["phase"] == "Succeeded"
    assert resume_study(study) == "mine is not paused (Succeeded)."
    assert stop_study(study) == "mine has ended (Succeeded): no task is running."
    assert "paused" not in spec(simulated)


# retry


def failed(simulated: SimulatedCluster, study: StudyOnCluster, loop: Loop) -> None:
    submitted(study, simulated, loop)
    for _ in range(10):
        simulated.step(loop)
        if simulated.status()["phase"] == "Failed":
            return
        simulated.start_pods()
        simulated.end_pods(ExitCode.REFUSED, "shard 3 has another hash")


def test_retry_starts_a_new_run_number_and_repeats_failed_tasks(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    failed(simulated, study, loop)
    assert (simulated.status()["phase"], simulated.status()["runNumber"]) == ("Failed", 1)
    message = retry_study(study)
    assert "are retried as run 2. To follow it: scaling-study watch mine -n studies" in message
    simulated.step(loop)
    assert (simulated.status()["phase"], simulated.status()["runNumber"]) == ("Running", 2)
    simulated.run_to_the_end(loop)
    assert simulated.status()["phase"] == "Succeeded"


def test_a_second_retry_raises_the_run_number_before_any_reconcile(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    failed(simulated, study, simulated.controller())
    retry_study(study)
    retry_study(study)
    assert find_object(simulated.cluster, "mine")["metadata"]["annotations"][ANNOTATION_RETRY] == "3"


def test_retry_without_failures_changes_nothing(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    submitted(study, simulated, loop)
    simulated.step(loop)
    before = find_object(simulated.cluster, "mine")
    assert retry_study(study) == "no task of mine has failed permanently (Running); there is nothing to retry."
    assert find_object(simulated.cluster, "mine") == before


def test_retry_of_a_rejected_study_names_the_mistake(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    submitted(study, simulated, simulated.controller(), execution={})
    assert "Fix the file and submit it again: ImageMissing" in retry_study(study)


# delete


def test_delete_removes_the_workflows_and_keeps_the_store(simulated: SimulatedCluster, study: StudyOnCluster) -> None:
    loop = simulated.controller()
    submitted(study, simulated, loop)
    simulated.step(loop)
    simulated.start_pods()
    pods = len(simulated.cluster.list("pods").items)
    assert describe_deletion(study) == (
        f"mine in namespace studies: Running, 0/2 cells done, {pods} pods running."
        " The study and its pods are deleted; memory://simulated is kept."
    )
    delete_study(study)
    assert simulated.cluster.get("scalingstudies", "mine") is None
    assert simulated.workflows() == []
    assert current(simulated.store, "mine") is not None
    with pytest.raises(NotFound, match="no study in namespace studies is called 'mine'"):
        describe_deletion(study)


# Errors


def test_a_missing_study_names_the_existing_ones(simulated: SimulatedCluster) -> None:
    with pytest.raises(NotFound, match="There is none: create one with `submit FILE`"):
        find_object(simulated.cluster, "mine")
    simulated.apply("to-code")
    with pytest.raises(NotFound, match='Did you mean "to-code"'):
        find_object(simulated.cluster, "to-kode")
    with pytest.raises(NotFound, match="Existing studies: to-code"):
        find_object(simulated.cluster, "x")


@pytest.mark.parametrize("name", ["größe", "study.yaml", "", "a/b", "A", "x" * 64, "スケール"])
def test_an_invalid_name_is_rejected_without_a_request(simulated: SimulatedCluster, name: str) -> None:
    with pytest.raises(NotFound, match="neither a file nor the name of a study"):
        find_object(simulated.cluster, name)
    assert simulated.cluster.calls == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            Refused('scalingstudies.scaling-study.dev is forbidden: User "eve" cannot patch resource "scalingstudies"'),
            Refused,
            "bind the Role scaling-study-researcher to your account",
        ),
        (Refused("Unauthorized"), Refused, "Log in again"),
        (
            NotFound("GET /apis/scaling-study.dev/v1alpha1: 404 page not found"),
            ClusterError,
            "kubectl apply -k manifests/overlays/one-node",
        ),
        (NotFound("POST /apis: the server could not find the requested resource"), ClusterError, "is not installed there"),
        (NotFound('POST /apis: namespaces "studies" not found'), NotFound, "the cluster has no namespace 'studies'"),
    ],
)
def test_errors_that_the_user_can_fix_contain_the_remedy(
    simulated: SimulatedCluster, study: StudyOnCluster, error: Exception, kind: type[Exception], words: str
) -> None:
    simulated.apply()
    simulated.cluster.faults.append(ClusterFault("patch", error=lambda: error))
    with pytest.raises(kind, match=words), explain_errors("studies"):
        stop_study(study)


def test_validation_errors_of_the_api_are_unchanged() -> None:
    with pytest.raises(Refused, match=r"^spec\.grid\.sizes: Too many: 40$"), explain_errors("studies"):
        raise Refused("spec.grid.sizes: Too many: 40")
