"""What is done to a study on a cluster, by the functions behind the commands: against the double in memory and a controller that runs."""

import copy
from typing import Any

import pytest

from orchestrator.cli.connect import At
from orchestrator.cli.delete import delete_study, what_goes
from orchestrator.cli.resume import resume_study
from orchestrator.cli.retry import retry_study
from orchestrator.cli.stop import stop_study
from orchestrator.cli.submit import Patience, submit_study
from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.port import Document
from orchestrator.cluster.study_object import clear_words, find_object
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, ExitCode
from orchestrator.controller.loop import Loop
from orchestrator.errors import ClusterError, ClusterUnavailable, NotThere, Refused
from orchestrator.store.plans import current
from tests.controller.simulated_cluster import SPEC, Played


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def at(played: Played) -> At:
    return At(played.cluster, "mine")


def values(**changes: Any) -> Document:
    """What a study file holds."""
    spec = copy.deepcopy(SPEC) | changes
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": spec}


def patience(played: Played, loop: Loop | None, *, until_planned: bool = False) -> Patience:
    """While the command waits, the controller works, if there is one."""

    def sleep(seconds: float) -> None:
        played.clock.advance(seconds)
        if loop is not None:
            played.turn(loop)

    return Patience(300.0 if until_planned else 5.0, until_planned, sleep, played.clock.seconds)


def submitted(at: At, played: Played, loop: Loop | None, **changes: Any) -> tuple[bool, list[str]]:
    said: list[str] = []
    went = submit_study(at, values(**changes), patience(played, loop), said.append)
    return went, said


def spec(played: Played) -> Document:
    found: Document = find_object(played.cluster, "mine")["spec"]
    return found


# submit


def test_a_new_study_is_created_and_what_the_controller_says_is_told(played: Played, at: At) -> None:
    went, said = submitted(at, played, played.controller())
    assert went
    assert said[0] == "mine: created in namespace studies."
    assert said[1].startswith("accepted and planned: 2 cells, ")
    assert said[1].endswith("To see it run: scaling-study watch mine -n studies")


def test_the_same_file_again_changes_nothing_and_another_says_what(played: Played, at: At) -> None:
    loop = played.controller()
    submitted(at, played, loop)
    assert submitted(at, played, loop)[1][0] == "mine: unchanged in namespace studies."
    assert submitted(at, played, loop, budget={"gpuHours": 7})[1][0] == "mine: changed in namespace studies (spec.budget)."
    more = SPEC["grid"] | {"seeds": [1, 2]}
    told = submitted(at, played, loop, grid=more, budget={"gpuHours": 7})[1]
    assert told[0] == "mine: changed in namespace studies (spec.grid.seeds); it is planned anew, and what is done stays."
    assert "4 cells" in told[1], "the verdict is of the new version, not of the one before"


def test_a_study_that_policy_refuses_is_told_with_the_rule(played: Played, at: At) -> None:
    went, said = submitted(at, played, played.controller(), execution={})
    assert not went
    assert said[-1].startswith("refused: ImageMissing: spec.execution.image: a cluster needs the trainer's image")


def test_without_a_controller_nobody_waits_for_ever(played: Played, at: At) -> None:
    went, said = submitted(at, played, None)
    assert went
    assert "no controller has looked at it yet" in said[-1]
    assert played.clock.seconds() < 10
    assert not submit_study(at, values(), patience(played, None, until_planned=True), said.append), "--wait asked for more"


def test_a_cluster_that_is_away_for_a_while_ends_no_waiting(played: Played, at: At) -> None:
    loop, said = played.controller(), list[str]()
    played.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=100))
    assert submit_study(at, values(), patience(played, None, until_planned=True), said.append) is False
    assert played.clock.seconds() >= 300, "to the end of its patience"
    assert sum("is away" in line for line in said) == 1, "the same trouble is told once"
    played.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=3))
    assert submit_study(at, values(), patience(played, loop, until_planned=True), said.append)
    assert said[-1].startswith("accepted and planned")


def test_a_cluster_that_stays_away_is_told_when_the_patience_ends(played: Played, at: At) -> None:
    played.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", skip=1, times=-1))
    with pytest.raises(ClusterUnavailable):
        submit_study(at, values(), patience(played, None), lambda _: None)
    assert 5 <= played.clock.seconds() < 10


def test_files_that_a_pod_must_look_at_are_waited_for_only_with_wait(played: Played, at: At) -> None:
    unknown = copy.deepcopy(SPEC["data"])
    for source in unknown["sources"]:
        del source["fingerprint"]
    went, said = submitted(at, played, played.controller(), data=unknown)
    assert went
    assert said[-1].startswith("accepted; before it is planned, a pod reads the files")


def test_a_dry_run_keeps_nothing(played: Played, at: At) -> None:
    said: list[str] = []
    assert submit_study(at, values(), patience(played, None), said.append, dry_run=True)
    assert said == ["mine: would be created in namespace studies. Nothing was sent to stay."]
    assert played.cluster.get("scalingstudies", "mine") is None


def test_a_stopped_study_that_is_submitted_again_stays_stopped_and_says_how_it_goes_on(played: Played, at: At) -> None:
    loop = played.controller()
    submitted(at, played, loop)
    stop_study(at)
    said = submitted(at, played, loop, budget={"gpuHours": 7})[1]
    assert spec(played)["paused"] is True
    assert "It is stopped; to let it go on: scaling-study resume mine -n studies" in said


# stop, resume


def test_stop_writes_checkpoints_and_resume_ends_with_every_cell(played: Played, at: At) -> None:
    loop = played.controller()
    submitted(at, played, loop)
    played.turn(loop)
    played.start_pods()
    told = stop_study(at)
    assert told.startswith("mine stops: ")
    assert told.endswith("To go on: scaling-study resume mine -n studies")
    played.turn(loop)
    assert played.status()["phase"] == "Stopping"
    assert stop_study(at) == "mine is stopped already (Stopping). To go on: scaling-study resume mine -n studies"
    played.start_pods()
    played.end_pods(ExitCode.STOPPED)
    played.turn(loop)
    assert played.status()["phase"] == "Paused"
    assert "goes on from its checkpoints" in resume_study(at)
    assert "paused" not in spec(played)
    played.run_to_the_end(loop)
    assert played.status()["phase"] == "Succeeded"
    assert resume_study(at) == "mine is not stopped (Succeeded)."
    assert stop_study(at) == "mine is over (Succeeded): nothing of it runs."
    assert "paused" not in spec(played)


# retry


def failed(played: Played, at: At, loop: Loop) -> None:
    submitted(at, played, loop)
    for _ in range(10):
        played.turn(loop)
        if played.status()["phase"] == "Failed":
            return
        played.start_pods()
        played.end_pods(ExitCode.REFUSED, "shard 3 has another hash")


def test_retry_tries_what_has_failed_again_and_begins_a_new_run_number(played: Played, at: At) -> None:
    loop = played.controller()
    failed(played, at, loop)
    assert (played.status()["phase"], played.status()["runNumber"]) == ("Failed", 1)
    told = retry_study(at)
    assert "is tried again, as run 2. To see it: scaling-study watch mine -n studies" in told
    played.turn(loop)
    assert (played.status()["phase"], played.status()["runNumber"]) == ("Running", 2)
    played.run_to_the_end(loop)
    assert played.status()["phase"] == "Succeeded"


def test_a_second_retry_goes_beyond_the_first_although_nobody_has_looked(played: Played, at: At) -> None:
    failed(played, at, played.controller())
    retry_study(at)
    retry_study(at)
    assert find_object(played.cluster, "mine")["metadata"]["annotations"][ANNOTATION_RETRY] == "3"


def test_retry_of_what_has_not_failed_changes_nothing(played: Played, at: At) -> None:
    loop = played.controller()
    submitted(at, played, loop)
    played.turn(loop)
    before = find_object(played.cluster, "mine")
    assert retry_study(at) == "nothing of mine has failed for good (Running); there is nothing to try again."
    assert find_object(played.cluster, "mine") == before


def test_retry_of_a_refused_study_says_what_to_mend(played: Played, at: At) -> None:
    submitted(at, played, played.controller(), execution={})
    assert "Mend the file and submit it again: ImageMissing" in retry_study(at)


# delete


def test_delete_takes_the_workflows_along_and_leaves_the_store(played: Played, at: At) -> None:
    loop = played.controller()
    submitted(at, played, loop)
    played.turn(loop)
    played.start_pods()
    pods = len(played.cluster.list("pods").items)
    assert what_goes(at) == (f"mine in namespace studies: Running, 0/2 cells done, {pods} pods running. They go; memory://played stays.")
    delete_study(at)
    assert played.cluster.get("scalingstudies", "mine") is None
    assert played.workflows() == []
    assert current(played.store, "mine") is not None
    with pytest.raises(NotThere, match="no study in namespace studies is called 'mine'"):
        what_goes(at)


# What cannot be reached


def test_a_study_that_is_not_there_names_those_that_are(played: Played) -> None:
    with pytest.raises(NotThere, match=r"There is none; `submit FILE` begins one"):
        find_object(played.cluster, "mine")
    played.apply("to-code")
    with pytest.raises(NotThere, match='Did you mean "to-code"'):
        find_object(played.cluster, "to-kode")
    with pytest.raises(NotThere, match="There are: to-code"):
        find_object(played.cluster, "x")


@pytest.mark.parametrize("name", ["größe", "study.yaml", "", "a/b", "A", "x" * 64, "スケール"])
def test_what_can_be_no_name_is_told_before_anybody_is_asked(played: Played, name: str) -> None:
    with pytest.raises(NotThere, match="neither a file nor the name of a study"):
        find_object(played.cluster, name)
    assert played.cluster.calls == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            Refused('scalingstudies.scaling-study.dev is forbidden: User "eve" cannot patch resource "scalingstudies"'),
            Refused,
            "binds the Role scaling-study-researcher to you",
        ),
        (Refused("Unauthorized"), Refused, "Log in again"),
        (
            NotThere("GET /apis/scaling-study.dev/v1alpha1: 404 page not found"),
            ClusterError,
            "kubectl apply -k manifests/overlays/one-node",
        ),
        (NotThere("POST /apis: the server could not find the requested resource"), ClusterError, "is not installed there"),
        (NotThere('POST /apis: namespaces "studies" not found'), NotThere, "the cluster has no namespace 'studies'"),
    ],
)
def test_what_a_person_can_mend_comes_with_what_mends_it(
    played: Played, at: At, error: Exception, kind: type[Exception], words: str
) -> None:
    played.apply()
    played.cluster.faults.append(ClusterFault("patch", error=lambda: error))
    with pytest.raises(kind, match=words), clear_words("studies"):
        stop_study(at)


def test_what_is_wrong_with_the_object_itself_is_told_as_the_api_says_it() -> None:
    with pytest.raises(Refused, match=r"^spec\.grid\.sizes: Too many: 40$"), clear_words("studies"):
        raise Refused("spec.grid.sizes: Too many: 40")
