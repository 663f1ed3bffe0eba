"""The loop on a cluster in memory: a study comes to its end whatever fails in between, and nothing is done twice."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.port import Document, Kind
from orchestrator.contract.vocabulary import ANNOTATION_RETRY, LABEL_KIND, LABEL_STUDY, ExitCode
from orchestrator.controller.loop import Loop
from orchestrator.errors import ClusterUnavailable, Refused, StudyMistakes
from orchestrator.spec import read_object
from orchestrator.store.memory import Fault
from orchestrator.store.plans import current
from orchestrator.study.fingerprints import Found, write_found
from tests.controller.simulated_cluster import SPEC, Played, tasks_of

SMALL: dict[str, Any] = {
    "grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]},
    "recipes": [{**SPEC["recipes"][0], "stages": SPEC["recipes"][0]["stages"][:1]}],
    "evaluation": {"after": ["pretrain"], "suites": ["bpb"]},
}
WRITES = ("create", "patch_status", "event", "stop_workflow", "delete")


class Killed(BaseException):
    """The controller's process is gone."""


def undisturbed(**changes: Any) -> Played:
    played = Played()
    played.apply(**changes)
    played.run_to_the_end(played.controller())
    assert played.status()["phase"] == "Succeeded"
    return played


def study_of(workflow: Document) -> str:
    return str(workflow["metadata"]["labels"][LABEL_STUDY])


def refused() -> tuple[Played, Loop]:
    """A study whose first task has refused for good."""
    played = Played()
    loop = played.controller()
    played.apply(**SMALL)
    played.turn(loop)
    played.start_pods()
    played.end_pods(ExitCode.REFUSED, "out of memory")
    played.turn(loop, 2)
    assert played.status()["phase"] == "Failed"
    return played, loop


def writes(played: Played) -> list[tuple[str, str]]:
    return [(name, target) for name, target in played.cluster.calls if name in WRITES and target != "scalingstudies/mine"]


def created(played: Played) -> list[str]:
    return [target for name, target in played.cluster.calls if name == "create" and target.startswith("workflows/")]


def run_disturbed(played: Played, disturb: Callable[[], None]) -> None:
    """To the end, with a new controller whenever the old one dies. Faults meet the controller's own calls alone."""
    loop = played.controller()
    played.apply(**SMALL)
    disturb()
    for _ in range(60):
        cluster_faults, store_faults = played.cluster.faults, played.objects.faults
        try:
            played.turn(loop)
        except Killed:
            loop = played.controller()
        finally:
            played.cluster.faults, played.objects.faults = [], []
        if played.status().get("phase") == "Succeeded":
            return
        played.work()
        played.cluster.faults, played.objects.faults = cluster_faults, store_faults
    raise AssertionError(f"no end: {played.status()}")


def assert_nothing_was_done_twice(played: Played, calm: Played) -> None:
    assert sorted(played.ran) == sorted(calm.ran)
    assert sorted(created(played)) == sorted(created(calm))
    assert played.status()["counts"] == calm.status()["counts"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["*", "create", "patch_status"])
def test_a_controller_killed_at_any_call_of_the_cluster_goes_on_where_it_was(when: Any, method: str) -> None:
    calm = undisturbed(**SMALL)
    total = len(calm.cluster.calls) if method == "*" else sum(name == method for name, _ in calm.cluster.calls)
    for number in range(0, total, 7 if method == "*" else 1):
        played = Played()
        fault = ClusterFault(method, when=when, skip=number, error=Killed)
        run_disturbed(played, lambda fault=fault, played=played: played.cluster.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(played, calm)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["create", "patch_status", "list", "read_config"])
def test_an_api_that_fails_at_any_call_only_costs_time(when: Any, method: str) -> None:
    calm = undisturbed(**SMALL)
    for number in range(0, sum(name == method for name, _ in calm.cluster.calls), 3):
        played = Played()
        fault = ClusterFault(method, when=when, skip=number, times=2)
        run_disturbed(played, lambda fault=fault, played=played: played.cluster.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(played, calm)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("operation", "key"), [("create", "studies/*"), ("put", "plans/*"), ("create", "tasks/*"), ("list", "done")])
def test_a_store_that_fails_at_any_call_only_costs_time(when: Any, operation: str, key: str) -> None:
    calm = undisturbed(**SMALL)
    for number in range(3):
        played = Played()
        fault = Fault(operation, key, when, times=4, skip=number)
        run_disturbed(played, lambda fault=fault, played=played: played.objects.faults.append(fault))  # type: ignore[misc]
        assert_nothing_was_done_twice(played, calm)


def at_work() -> tuple[Played, Loop]:
    """A study that was applied and whose first pods run."""
    played = Played()
    loop = played.controller()
    played.apply()
    played.turn(loop)
    played.start_pods()
    return played, loop


def test_a_store_that_stays_away_is_told_in_the_status() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    played.objects.faults.append(Fault("*", "*", "before", times=-1))
    played.turn(loop, 4)
    condition = played.condition("Degraded")
    assert (condition["status"], condition["reason"]) == ("True", "StoreUnavailable")
    played.objects.faults.clear()
    played.run_to_the_end(loop)
    assert played.condition("Degraded")["status"] == "False"


def test_a_store_that_is_away_is_asked_once_a_round_and_not_once_a_study() -> None:
    played = Played()
    loop = played.controller()
    for number in range(5):
        played.apply(f"study-{number}")
    played.turn(loop)
    fault = Fault("list", "done", "before", times=100)
    played.objects.faults.append(fault)
    played.turn(loop)
    assert fault.times == 99


def test_an_api_that_is_away_for_a_while_is_waited_for() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    played.turn(loop)
    played.cluster.faults.append(ClusterFault("*", times=5))
    for _ in range(5):
        played.turn(loop)
    played.run_to_the_end(loop)
    assert len(set(played.ran)) == len(played.ran)


@pytest.mark.parametrize("what", ["event", "patch_status"])
def test_an_event_that_could_not_be_told_is_told_later(what: str) -> None:
    """What is told once, that a plan is there, is not lost with the call that told it, nor with the process after that."""
    played = Played()
    loop = played.controller()
    played.apply()
    played.cluster.faults.append(ClusterFault(what, times=2, error=Killed if what == "patch_status" else ClusterUnavailable))
    for _ in range(3):
        try:
            played.turn(loop)
        except Killed:
            loop = played.controller()
    assert "Planned" in played.events()
    assert played.workflows()


def test_a_new_controller_knows_what_others_were_promised_before_it_has_looked_at_them() -> None:
    played = Played(gpus=1)
    played.cluster.configs["scaling-study-policy"] = {"gpuHours": "1"}
    loop = played.controller()
    played.apply("first", paused=True, **copy.deepcopy(SMALL) | {"grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [2]}})
    played.apply("zeta", **SMALL)
    played.turn(loop)
    for _ in range(3):  # all that is prepared
        played.work()
        played.turn(loop)
    status = copy.deepcopy(played.status("zeta"))
    status["gpuHours"] |= {"used": "0.50", "promised": "0.50"}
    played.cluster.set_status("scalingstudies", "zeta", status)
    played.edit("first", paused=False)
    before = created(played)
    played.turn(played.controller())
    assert created(played) == before
    assert played.condition("BudgetExhausted", "first")["status"] == "True"


def test_a_pass_that_finds_nothing_new_writes_nothing() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    played.turn(loop, 2)
    played.start_pods()
    played.turn(loop, 3)
    before = len(writes(played)), [call for call in played.cluster.calls if call[0] == "patch_status"]
    puts = [entry for entry in played.objects.log if entry[0] in ("put", "create")]
    played.turn(loop, 3)
    assert (len(writes(played)), [call for call in played.cluster.calls if call[0] == "patch_status"]) == before
    assert [entry for entry in played.objects.log if entry[0] in ("put", "create")] == puts


def test_mistakes_are_told_in_the_words_of_the_command_line() -> None:
    played = Played()
    spec = copy.deepcopy(SPEC)
    spec["grid"]["sizes"] = ["460M"]
    played.apply(**spec)
    played.turn(played.controller())
    condition = played.condition("Accepted")
    body = played.cluster.get("scalingstudies", "mine")
    assert body is not None
    with pytest.raises(StudyMistakes) as problem:
        read_object(body)
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Invalid", str(problem.value))
    assert played.status()["phase"] == "Refused"
    assert not created(played)


def test_what_the_policy_does_not_allow_is_refused_by_the_rules_name_until_it_does() -> None:
    played = Played()
    played.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*"}
    loop = played.controller()
    played.apply()
    played.turn(loop)
    assert (played.condition("Accepted")["reason"], played.status()["phase"]) == ("ImageNotAllowed", "Refused")
    played.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*\ntrainer:*"}
    played.run_to_the_end(loop)


def test_a_study_that_is_refused_while_it_runs_can_be_paused() -> None:
    played, loop = at_work()
    played.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*"}
    played.edit(paused=True)
    played.turn(loop, 2)
    assert played.status()["phase"] == "Refused"
    assert all(workflow["spec"].get("shutdown") == "Stop" for workflow in played.workflows())


def test_files_without_a_fingerprint_are_looked_at_by_a_pod_first() -> None:
    played = Played()
    loop = played.controller()
    data = copy.deepcopy(SPEC["data"])
    del data["sources"][0]["fingerprint"]
    played.apply(data=data)
    played.turn(loop, 3)
    assert (played.condition("Planned")["reason"], played.status()["phase"]) == ("Fingerprinting", "Planning")
    (workflow,) = played.workflows()
    arguments = workflow["spec"]["templates"][0]["container"]["args"]
    key = next(argument.removeprefix("--key=") for argument in arguments if argument.startswith("--key="))
    assert "--source=web=s3://corpora/web" in arguments
    write_found(played.store, key, Found(unreachable={"web": "nobody is there"}))
    played.turn(loop)
    assert played.condition("Planned")["reason"] == "SourceUnreachable"
    write_found(played.store, key, Found({"web": "c" * 64}, {"web": 1}))
    played.cluster.remove("workflows", workflow["metadata"]["name"])
    played.run_to_the_end(loop)


def test_files_that_are_edited_away_are_looked_at_no_more() -> None:
    played = Played()
    loop = played.controller()
    data = copy.deepcopy(SPEC["data"])
    del data["sources"][0]["fingerprint"]
    played.apply(data=data)
    played.turn(loop, 2)
    (first,) = played.workflows()
    data["sources"][0]["path"] = "s3://corpora/elsewhere"
    played.edit(data=data)
    played.turn(loop, 2)
    (second,) = played.workflows()
    assert second["metadata"]["name"] != first["metadata"]["name"]
    played.edit(data=SPEC["data"])
    played.turn(loop, 2)
    assert second["metadata"]["name"] not in {body["metadata"]["name"] for body in played.workflows()}


def test_a_study_that_was_deleted_and_comes_again_is_another_run_and_tries_what_failed() -> None:
    played, loop = refused()
    played.cluster.delete("scalingstudies", "mine")
    played.turn(loop)
    played.apply(**SMALL)
    played.run_to_the_end(loop)
    assert (played.status()["phase"], played.status()["runNumber"]) == ("Succeeded", 2)


def test_pausing_stops_and_resuming_is_another_run() -> None:
    played, loop = at_work()
    played.edit(paused=True)
    played.turn(loop, 2)
    played.start_pods()
    assert all(workflow["spec"].get("shutdown") == "Stop" for workflow in played.workflows())
    assert played.status()["phase"] == "Stopping"
    played.end_pods(ExitCode.STOPPED)
    played.turn(loop, 2)
    assert played.status()["phase"] == "Paused"
    played.edit(paused=False)
    played.run_to_the_end(loop)
    assert played.status()["runNumber"] == 2
    assert len(set(played.ran)) == len(played.ran)


def test_a_failed_task_is_tried_again_when_a_person_says_so() -> None:
    played, loop = refused()
    assert "out of memory" in next(body["message"] for body in played.cluster.list("events").items if body["reason"] == "CellFailed")
    played.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "2"}}})
    played.turn(loop)
    played.work()
    played.run_to_the_end(loop)
    assert (played.status()["phase"], played.status()["runNumber"]) == ("Succeeded", 2)


def test_what_ran_out_of_memory_stays_given_up_when_its_workflow_is_gone() -> None:
    played = Played()
    loop = played.controller()
    played.apply(**SMALL)
    played.turn(loop)
    played.start_pods()
    played.run_out_of_memory()
    played.clock.advance(3600)
    played.turn(loop, 2)
    assert played.status()["phase"] == "Failed"
    before = [entry for entry in played.objects.log if "lease" in entry[1]]
    played.turn(loop, 3)
    assert [entry for entry in played.objects.log if "lease" in entry[1]] == before, "it is said once"
    for workflow in played.workflows("Failed"):
        played.cluster.remove("workflows", workflow["metadata"]["name"])
    played.clock.advance(3600)
    played.turn(played.controller(), 3)
    assert played.status()["phase"] == "Failed"
    assert "OOMKilled" in played.status()["failedCells"][0]["reason"]
    played.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {ANNOTATION_RETRY: "2"}}})
    played.run_to_the_end(played.controller())


def test_what_another_study_failed_at_is_tried_by_this_one_and_by_nobody_for_ever() -> None:
    played = Played()
    loop = played.controller()
    for name, image in (("mine", "small:1"), ("yours", "large:1")):
        played.apply(name, **SMALL, execution={"image": image})
        for _ in range(6):
            played.turn(loop)
            played.start_pods()
            if name == "mine":
                played.never_begin()
            else:
                played.end_pods()
        if name == "mine":
            assert played.status()["phase"] == "Failed"
    played.run_to_the_end(loop, "yours")
    assert played.status()["phase"] == "Succeeded", "what the other has done is done"


def test_two_studies_that_both_fail_do_not_take_turns_for_ever() -> None:
    played = Played()
    loop = played.controller()
    for name in ("mine", "yours"):
        played.apply(name, **SMALL)
    for _ in range(12):
        played.turn(loop)
        played.start_pods()
        played.never_begin()
    before = created(played)
    for _ in range(6):
        played.turn(loop)
        played.start_pods()
        played.never_begin()
    assert created(played) == before
    assert [played.status(name)["phase"] for name in ("mine", "yours")] == ["Failed", "Failed"]


def test_the_same_file_under_another_name_runs_nothing() -> None:
    played = undisturbed()
    before = created(played)
    played.apply("again")
    played.run_to_the_end(played.controller(), "again")
    assert created(played) == before
    assert "TaskReused" in played.events()


def test_two_studies_that_share_all_of_it_do_each_task_once() -> None:
    played = Played()
    loop = played.controller()
    played.apply("mine")
    played.apply("yours")
    played.run_to_the_end(loop)
    played.run_to_the_end(loop, "yours")
    assert len(set(played.ran)) == len(played.ran)
    assert len(set(created(played))) == len(created(played))


def test_the_same_tasks_for_another_store_are_other_work() -> None:
    played = Played()
    loop = played.controller()
    played.apply("mine", **SMALL)
    played.apply("yours", **SMALL | {"store": "memory://elsewhere"})
    played.turn(loop, 2)
    assert len(played.workflows()) == 2
    assert [played.status(name)["counts"]["tasksQueued"] for name in ("mine", "yours")] == [1, 1]


def test_a_cell_that_is_edited_away_stops_and_the_rest_goes_on() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    for _ in range(2):
        played.turn(loop)
        played.work()
    played.turn(loop, 2)
    played.start_pods()
    running = played.workflows("Running")
    assert len(running) == 2
    first = current(played.store, "mine")
    played.edit(grid={"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]})
    played.turn(loop)
    stopped = [workflow for workflow in played.workflows() if workflow["spec"].get("shutdown")]
    assert len(stopped) == 1
    second = current(played.store, "mine")
    assert first is not None
    assert second is not None
    assert not set(tasks_of(stopped[0])) <= set(second[1].tasks)
    assert played.status()["planDigest"] == second[0]
    assert second[0] != first[0]
    assert played.status()["planVersion"] == 2
    played.end_pods()
    played.run_to_the_end(loop)
    assert played.status()["counts"]["cells"] == 1


@pytest.mark.parametrize("change", [{"budget": {"gpuHours": 5}}, {"execution": {"image": "trainer:2"}}])
def test_an_edit_that_changes_no_result_keeps_the_plan(change: dict[str, Any]) -> None:
    played = Played()
    played.apply()
    loop = played.controller()
    played.turn(loop)
    before = played.status()["planDigest"]
    played.edit(**change)
    played.turn(loop)
    assert (played.status()["planDigest"], played.status()["planVersion"], played.status()["observedGeneration"]) == (before, 1, 2)


def test_deleting_a_study_takes_its_workflows_and_leaves_the_store() -> None:
    played = Played()
    loop = played.controller()
    played.apply()
    played.turn(loop)
    played.work()
    played.turn(loop, 2)
    played.start_pods()
    played.cluster.delete("scalingstudies", "mine")
    played.turn(loop, 2)
    assert not played.workflows()
    assert all("deletionTimestamp" in pod["metadata"] for pod in played.cluster.list("pods").items)
    assert current(played.store, "mine") is not None


def test_a_quota_is_named_and_what_it_held_goes_on_when_it_is_lifted() -> None:
    played = Played()
    loop = played.controller()

    def quota(kind: Kind, _body: Document) -> str | None:
        return "exceeded quota: few" if kind == "workflows" else None

    played.cluster.admission.append(quota)
    played.apply()
    played.turn(loop, 2)
    assert "exceeded quota" in played.condition("Degraded")["message"]
    assert "SubmitRefused" in played.events()
    played.cluster.admission.clear()
    played.run_to_the_end(loop)


def test_a_budget_holds_back_and_a_higher_one_goes_on() -> None:
    played = Played()
    loop = played.controller()
    played.apply(budget={"gpuHours": "0.0000001"})
    for _ in range(4):
        played.turn(loop)
        played.work()
    played.turn(loop)
    assert played.status()["phase"] == "Held"
    assert played.condition("BudgetExhausted")["status"] == "True"
    played.edit(budget={"gpuHours": 100})
    played.run_to_the_end(loop)


def test_the_namespaces_cap_counts_all_of_its_studies() -> None:
    played = Played()
    played.cluster.configs["scaling-study-policy"] = {"gpuHours": "0.01"}
    loop = played.controller()
    played.apply("mine", **SMALL)
    played.run_to_the_end(loop)
    other = copy.deepcopy(SMALL) | {"grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [2]}}
    played.clock.advance(1)
    played.apply("yours", **other)
    for _ in range(8):
        played.turn(loop)
        played.work()
    played.turn(loop)
    assert played.status("yours")["phase"] == "Held"
    assert float(played.status("yours")["gpuHours"]["used"]) < 0.01, "alone it would have been under the cap"
    played.cluster.configs["scaling-study-policy"] = {"gpuHours": "10"}
    played.run_to_the_end(loop, "yours")


@pytest.mark.parametrize(("phase", "whose"), [("Running", "mine"), ("Failed", "mine"), ("Failed", "yours")])
def test_a_workflow_that_is_there_before_ours_is_read_and_one_that_is_over_makes_room(phase: str, whose: str) -> None:
    """Between our listing and our create another controller, or another study, was faster."""
    played = Played()
    loop = played.controller()
    raced: list[str] = []

    def faster(kind: Kind, body: Document) -> str | None:
        if kind == "workflows" and body["metadata"]["name"] not in raced:
            raced.append(body["metadata"]["name"])
            theirs = copy.deepcopy(body) | {"status": {"phase": phase}}
            theirs["metadata"]["labels"][LABEL_STUDY] = whose
            played.cluster.put("workflows", theirs)
        return None

    played.cluster.admission.append(faster)
    played.apply(**SMALL)
    played.run_to_the_end(loop)
    assert raced
    assert len(set(played.ran)) == len(played.ran)
    assert played.status()["phase"] == "Succeeded"
    assert "SubmitRefused" not in played.events()
    assert "AlreadyExists" not in loop._metrics.text().decode()


def test_the_namespaces_number_of_workflows_is_never_passed_and_all_get_done() -> None:
    played = Played()
    played.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "2"}
    loop = played.controller()
    for number in range(3):
        played.apply(f"study-{number}", grid={"sizes": ["0.03M"], "codePercent": [0, 50], "seeds": [number + 1]})
    for _ in range(60):
        played.turn(loop)
        assert len(played.workflows("", "Pending", "Running")) <= 2
        played.work()
    assert [played.status(f"study-{number}")["phase"] for number in range(3)] == ["Succeeded"] * 3
    assert len(set(played.ran)) == len(played.ran)


def test_places_go_round_among_the_studies_that_wait_for_one() -> None:
    played = Played()
    played.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "1"}
    loop = played.controller()
    for number in range(3):
        played.apply(f"study-{number}", grid={"sizes": ["0.03M"], "codePercent": [0, 50], "seeds": [number + 1]})
    order = dict[str, str]()
    for _ in range(60):
        played.turn(loop)
        at_work = [body for body in played.workflows("", "Pending", "Running") if body["metadata"]["labels"][LABEL_KIND] == "train"]
        order |= {body["metadata"]["name"]: study_of(body) for body in at_work}
        played.work()
    assert [played.status(f"study-{number}")["phase"] for number in range(3)] == ["Succeeded"] * 3
    whose = list(order.values())
    assert [len(set(whose[first : first + 3])) for first in (0, 3)] == [3, 3], whose


@pytest.mark.parametrize("trouble", ["the policy", "the store"])
def test_a_study_that_cannot_use_a_place_keeps_none_from_others(trouble: str) -> None:
    played = Played()
    apart = played.open_apart("memory://apart")
    loop = played.controller()
    played.cluster.configs["scaling-study-policy"] = {"workflowsAtOnce": "1"}
    played.apply("first")
    played.apply("second", store="memory://apart", execution={"image": "other:1"})
    played.turn(loop)
    assert "the namespace has 1 at once" in played.condition("Progressing", "second")["message"], "it stands in the line"
    if trouble == "the policy":
        played.cluster.configs["scaling-study-policy"]["images"] = "trainer:*"
    else:
        apart.faults.append(Fault("*", "*", "before", times=-1))
    for _ in range(40):
        played.turn(loop)
        played.work()
    assert played.status("first")["phase"] == "Succeeded"


def test_a_task_without_a_step_is_started_again() -> None:
    played, loop = at_work()
    (pod,) = played.cluster.list("pods").items
    played.clock.advance(31 * 60)
    played.turn(loop)
    (pod,) = played.cluster.list("pods").items
    assert "deletionTimestamp" in pod["metadata"]
    assert "Stalled" in played.events()


@pytest.mark.parametrize("may_see_nodes", [True, False])
def test_a_pod_on_a_node_that_is_gone_is_deleted_without_it(may_see_nodes: bool) -> None:
    played, loop = at_work()
    (pod,) = played.cluster.list("pods").items
    name = pod["metadata"]["name"]
    played.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    played.cluster.delete("pods", name)
    played.turn(loop, 4)
    assert played.cluster.get("pods", name), "its node answers, so it is waited for"
    if may_see_nodes:
        played.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    else:
        played.cluster.faults.append(ClusterFault("list", "nodes", times=-1, error=lambda: Refused("nodes is forbidden")))
        played.cluster.set_status("pods", name, {"conditions": [{"type": "Ready", "status": "False"}]})
    played.turn(loop, 4)
    assert played.cluster.get("pods", name) is None


def test_a_pod_whose_study_is_gone_too_does_not_hold_up_another() -> None:
    played, loop = at_work()
    (pod,) = played.cluster.list("pods").items
    played.cluster.put("nodes", {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    played.cluster.delete("pods", pod["metadata"]["name"])
    (workflow,) = played.workflows("Running")
    played.cluster.remove("workflows", workflow["metadata"]["name"])
    played.cluster.remove("scalingstudies", "mine")
    played.apply("yours", **SMALL)
    played.turn(loop, 4)
    assert played.cluster.get("pods", pod["metadata"]["name"]) is None


def test_a_workflow_deleted_by_hand_comes_again() -> None:
    played = Played()
    loop = played.controller()
    played.apply(**SMALL)
    played.turn(loop)
    (workflow,) = played.workflows()
    played.cluster.remove("workflows", workflow["metadata"]["name"])
    played.run_to_the_end(loop)
    assert len(set(played.ran)) == len(played.ran)


def test_one_study_that_cannot_be_read_does_not_stop_the_others() -> None:
    played = Played()
    loop = played.controller()
    played.apply("mine")
    played.cluster.put("scalingstudies", {"metadata": {"name": "odd"}, "spec": "not a spec"})
    played.run_to_the_end(loop)
    assert played.status("odd")["phase"] == "Refused"


def test_a_controller_that_may_not_work_does_nothing() -> None:
    played = Played()
    played.apply()
    played.turn(played.controller(may_work=lambda: False), 3)
    assert not [call for call in played.cluster.calls if call[0] in (*WRITES, "list") and call != ("create", "scalingstudies/mine")]


def test_unavailable_is_worth_another_try() -> None:
    assert ClusterUnavailable.retryable
