"""Studies that are refused or that wait for a plan."""

import copy
from typing import Any

import pytest

from orchestrator.errors import InvalidStudy
from orchestrator.spec import read_object
from orchestrator.study.fingerprints import FingerprintResult, write_result
from tests.controller.scenarios import at_work, created
from tests.controller.simulated_cluster import SPEC, SimulatedCluster


def data_without_fingerprint() -> dict[str, Any]:
    """Return the data of `SPEC` with a source whose files are not fingerprinted."""
    data: dict[str, Any] = copy.deepcopy(SPEC["data"])
    del data["sources"][0]["fingerprint"]
    return data


def test_mistakes_have_the_messages_of_the_command_line() -> None:
    simulated = SimulatedCluster()
    spec = copy.deepcopy(SPEC)
    spec["grid"]["sizes"] = ["460M"]
    simulated.apply(**spec)
    simulated.step(simulated.controller())
    condition = simulated.condition("Accepted")
    body = simulated.cluster.get("scalingstudies", "mine")
    assert body is not None
    with pytest.raises(InvalidStudy) as problem:
        read_object(body)
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Invalid", str(problem.value))
    assert simulated.status()["phase"] == "Refused"
    assert not created(simulated)


def test_a_policy_violation_names_the_rule_until_the_policy_allows_the_study() -> None:
    simulated = SimulatedCluster()
    simulated.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*"}
    loop = simulated.controller()
    simulated.apply()
    simulated.step(loop)
    assert (simulated.condition("Accepted")["reason"], simulated.status()["phase"]) == ("ImageNotAllowed", "Refused")
    simulated.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*\ntrainer:*"}
    simulated.run_to_the_end(loop)


def test_a_study_that_is_refused_while_it_runs_can_be_paused() -> None:
    simulated, loop = at_work()
    simulated.cluster.configs["scaling-study-policy"] = {"images": "registry.example.com/*"}
    simulated.edit(paused=True)
    simulated.step(loop, 2)
    assert simulated.status()["phase"] == "Refused"
    assert all(workflow["spec"].get("shutdown") == "Stop" for workflow in simulated.workflows())


def test_files_without_a_fingerprint_are_read_by_a_pod_first() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    data = data_without_fingerprint()
    simulated.apply(data=data)
    simulated.step(loop, 3)
    assert (simulated.condition("Planned")["reason"], simulated.status()["phase"]) == ("Fingerprinting", "Planning")
    (workflow,) = simulated.workflows()
    arguments = workflow["spec"]["templates"][0]["container"]["args"]
    key = next(argument.removeprefix("--key=") for argument in arguments if argument.startswith("--key="))
    assert "--source=web=s3://corpora/web" in arguments
    write_result(simulated.store, key, FingerprintResult(unreachable={"web": "connection refused"}))
    simulated.step(loop)
    assert simulated.condition("Planned")["reason"] == "SourceUnreachable"
    write_result(simulated.store, key, FingerprintResult({"web": "c" * 64}, {"web": 1}))
    simulated.cluster.remove("workflows", workflow["metadata"]["name"])
    simulated.run_to_the_end(loop)


def test_fingerprint_workflows_of_removed_files_are_deleted() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    data = data_without_fingerprint()
    simulated.apply(data=data)
    simulated.step(loop, 2)
    (first,) = simulated.workflows()
    data["sources"][0]["path"] = "s3://corpora/elsewhere"
    simulated.edit(data=data)
    simulated.step(loop, 2)
    (second,) = simulated.workflows()
    assert second["metadata"]["name"] != first["metadata"]["name"]
    simulated.edit(data=SPEC["data"])
    simulated.step(loop, 2)
    assert second["metadata"]["name"] not in {body["metadata"]["name"] for body in simulated.workflows()}


def test_an_unreadable_study_does_not_block_the_others() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply("mine")
    simulated.cluster.put("scalingstudies", {"metadata": {"name": "odd"}, "spec": "not a spec"})
    simulated.run_to_the_end(loop)
    assert simulated.status("odd")["phase"] == "Refused"
