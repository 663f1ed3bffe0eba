"""The cap on GPU-hours on a real cluster: no edit, deletion or refusal lets a study spend more.

The pods request GPUs, which the node must offer (counted ones are enough), and compute nothing on them: they hold their GPUs until their
trainer fails, which takes a few seconds. The controller is a process of this machine.
"""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.contract.vocabulary import ACCOUNT_NAME
from tests.e2e.conftest import POLICY
from tests.e2e.installation import TRAINER_IMAGE, install, uninstall
from tests.e2e.kubectl import Document, Failed, eventually
from tests.e2e.survival import SINGLE, Controller, Sandbox, Trial, recipe, stage

pytestmark = pytest.mark.cluster

GPUS = 8
# Lower than the cost of one pod, which holds its GPUs for several seconds
CAP_HOURS = 0.001
ON_GPUS: Document = {"gpusPerPod": {"0.01M": GPUS}}


@pytest.fixture(scope="module")
def capped(sandbox: Sandbox) -> Iterator[Sandbox]:
    """An installation of its own, with a cap and a controller."""
    nodes = sandbox.kubectl.json("get", "nodes")["items"]
    if not any(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) >= GPUS for node in nodes):
        pytest.skip(f"no node offers {GPUS} GPUs")
    namespace = f"e2e-account-{uuid.uuid4().hex[:6]}"
    kubectl = install(namespace, controller=False)
    found = Sandbox(kubectl, sandbox.root, sandbox.folder, sandbox.reference, sandbox.main_node)
    set_policy(found, CAP_HOURS)
    controller = Controller(namespace, sandbox.folder / "account-controller.log").start()
    yield found
    controller.stop()
    uninstall(namespace)


def set_policy(sandbox: Sandbox, cap: float) -> None:
    policy = {**POLICY, "gpuHours": str(cap), "images": TRAINER_IMAGE}
    sandbox.kubectl.run("patch", "configmap", "scaling-study-policy", "-p", json.dumps({"data": policy}))


def account(sandbox: Sandbox) -> Document:
    found: Document = sandbox.kubectl.json("get", "gpuaccounts", ACCOUNT_NAME)
    return found


def used_hours(sandbox: Sandbox) -> float:
    return float(account(sandbox)["status"]["gpuHours"])


def started(study: Trial) -> Trial:
    """Apply a study and wait until a pod of it was scheduled on GPUs."""
    study.apply()
    eventually(lambda: any(pod["status"].get("startTime") for pod in study.pods()), f"{study.name} has a pod")
    return study


def is_overdrawn(study: Trial) -> bool:
    return study.condition("BudgetExhausted").get("reason") == "Overdrawn"


def live_workflows(study: Trial) -> list[str]:
    """Names of the study's Workflows that may still start pods."""
    found = study.workflows()
    return [
        body["metadata"]["name"]
        for body in found
        if not body["spec"].get("shutdown") and (body.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Error")
    ]


def test_neither_another_store_nor_a_new_study_can_spend_beyond_the_cap(capped: Sandbox) -> None:
    study = started(capped.trial("spender", SINGLE, store="account", execution=ON_GPUS))
    eventually(lambda: is_overdrawn(study), "the cap is exceeded")
    eventually(lambda: not live_workflows(study) and not study.pods(), "its Workflows are stopped")
    used = account(capped)["status"]["gpuSeconds"]
    assert used > CAP_HOURS * 3600
    (entry,) = account(capped)["status"]["studies"]
    assert entry["podGpuSeconds"] + entry["unobservedGpuSeconds"] == used

    before = [body["metadata"]["uid"] for body in study.workflows()]
    study.edit(store=f"{capped.root}/account-elsewhere")
    eventually(lambda: study.status().get("observedGeneration") == 2 and is_overdrawn(study), "another store does not help")
    assert float(study.status()["gpuHours"]["used"]) > CAP_HOURS
    assert {body["metadata"]["uid"] for body in study.workflows()} <= set(before)

    capped.kubectl.run("delete", "sstudy", study.name)
    again = capped.applied("spender", SINGLE, store="account", execution=ON_GPUS)
    renamed = capped.applied("spender-again", SINGLE, store="account-again", execution=ON_GPUS)
    for other in (again, renamed):
        eventually(lambda other=other: is_overdrawn(other), f"{other.name} is held")  # type: ignore[misc]
        assert not live_workflows(other)
    assert account(capped)["status"]["gpuSeconds"] >= used


REFUSED_EDITS: dict[str, dict[str, Any]] = {
    "not allowed": {"execution": {"image": "localhost/other:dev"}},
    # the API server accepts it, the controller does not
    "invalid": {"recipes": [recipe("one", stage("64K", {"shape": "cosine", "warmup": "1M"}))]},
}


@pytest.mark.parametrize("edit", REFUSED_EDITS.values(), ids=REFUSED_EDITS)
def test_a_refused_edit_stops_the_pods_and_they_are_billed(capped: Sandbox, edit: dict[str, Any]) -> None:
    set_policy(capped, 1000)
    name = f"refused-{uuid.uuid4().hex[:4]}"
    study = started(capped.trial(name, SINGLE, execution=ON_GPUS))
    study.edit(**edit)
    study.wait_for_phase("Refused")
    eventually(lambda: not live_workflows(study) and not study.pods(), "its Workflows are stopped")
    eventually(lambda: study.condition("Progressing").get("status") == "False", "the condition says so")
    (entry,) = [entry for entry in account(capped)["status"]["studies"] if entry["study"] == name]
    assert entry["podGpuSeconds"] > 0


def test_only_the_platform_team_may_reset_the_account(capped: Sandbox) -> None:
    change = ("patch", "gpuaccounts", ACCOUNT_NAME, "--type=merge", "-p", json.dumps({"spec": {"reset": "a new quarter"}}))
    capped.kubectl.run("create", "rolebinding", "tester", "--role=scaling-study-researcher", "--user=tester", "--save-config=false")
    with pytest.raises(Failed, match="forbidden"):
        capped.kubectl.run(*change, "--as=tester", "--as-group=system:authenticated")
    with pytest.raises(Failed, match="forbidden"):
        capped.kubectl.run("delete", "gpuaccounts", ACCOUNT_NAME, "--as=tester", "--as-group=system:authenticated")
    before = account(capped)["status"]["gpuSeconds"]
    capped.kubectl.run(*change)
    eventually(lambda: bool(account(capped)["status"].get("resets")), "the reset is made")
    assert used_hours(capped) * 3600 < before <= account(capped)["status"]["gpuSeconds"]
    events = capped.kubectl.json("get", "events", "--field-selector", f"involvedObject.name={ACCOUNT_NAME}")["items"]
    assert [event["reason"] for event in events] == ["AccountReset"]
