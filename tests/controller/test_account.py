"""The account of GPU-hours: no edit, deletion or restart lowers it, and the namespace's cap stops every pod."""

from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.port import Document
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import ACCOUNT_NAME
from orchestrator.controller.accounting import Accounting
from orchestrator.controller.lease_cache import LeaseCaches
from orchestrator.controller.loop import Loop
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.snapshot import take_snapshot
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.errors import Conflict
from orchestrator.store.memory import Fault
from tests.controller.accounts import (
    CAP_HOURS,
    GPUS,
    OTHER_STORE,
    REFUSED_EDITS,
    account_of,
    all_stopped,
    put_deletion,
    running_on_gpus,
    spend,
)  # fmt: skip
from tests.controller.scenarios import SMALL, Killed, created
from tests.controller.simulated_cluster import SPEC, SimulatedCluster


def test_a_running_pod_is_billed_from_its_start_without_a_lease() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    spend(simulated, loop, 3600)
    (entry,) = account_of(simulated).entries.values()
    assert entry.pods >= GPUS * 3600
    assert entry.leases == 0, "the trainer has not renewed its lease"
    assert float(simulated.status()["gpuHours"]["used"]) >= GPUS


def test_the_metrics_show_the_account() -> None:
    simulated = SimulatedCluster(gpus=GPUS)
    metrics = Metrics()
    reconciler = StudyReconciler(simulated.cluster, lambda _url: simulated.store, simulated.clock, metrics)
    loop = Loop(simulated.cluster, reconciler, metrics, simulated.clock, monotonic=simulated.clock.seconds)
    simulated.apply(**SMALL)
    simulated.step(loop)
    simulated.start_pods()
    spend(simulated, loop)
    text = metrics.text().decode()
    for part, seconds in account_of(simulated).parts.items():
        assert f'scaling_study_namespace_gpu_seconds{{part="{part}"}} {float(seconds)}' in text
    assert account_of(simulated).parts["pods"] > 0


def test_the_cap_stops_the_pods_of_a_valid_study() -> None:
    simulated, loop = running_on_gpus()
    spend(simulated, loop)
    assert account_of(simulated).used > CAP_HOURS * 3600
    assert all_stopped(simulated)
    assert simulated.condition("BudgetExhausted")["reason"] == "Overdrawn"


def test_the_cap_stops_pods_while_the_store_cannot_be_read() -> None:
    simulated, loop = running_on_gpus()
    simulated.objects.faults.append(Fault("*", "*", "before", times=-1))
    spend(simulated, loop)
    assert account_of(simulated).used >= GPUS * 600 > CAP_HOURS * 3600
    assert all_stopped(simulated)


@pytest.mark.parametrize("edit", REFUSED_EDITS.values(), ids=REFUSED_EDITS)
def test_a_refused_edit_stops_the_study_with_a_checkpoint_and_its_pods_are_billed(edit: dict[str, Any]) -> None:
    simulated, loop = running_on_gpus(cap=1000)
    simulated.edit(**edit)
    spend(simulated, loop)
    assert simulated.status()["phase"] == "Refused"
    assert all_stopped(simulated)
    progressing = simulated.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "Refused")
    assert "being stopped after a checkpoint" in progressing["message"]
    assert account_of(simulated).used >= GPUS * 600
    simulated.end_pods(ExitCode.STOPPED)
    simulated.start_pods()  # Argo marks the Workflow as stopped
    simulated.step(loop)
    assert simulated.condition("Progressing")["status"] == "False"
    restored: dict[str, Any] = SMALL | {key: SPEC.get(key) for key in edit if key not in SMALL}
    simulated.edit("mine", **restored)
    simulated.run_to_the_end(loop)


def test_the_cap_holds_for_a_study_that_is_refused_while_its_pod_ignores_the_stop() -> None:
    simulated, loop = running_on_gpus()
    simulated.edit(**REFUSED_EDITS["unknown key"])
    spend(simulated, loop)
    assert account_of(simulated).used > CAP_HOURS * 3600
    simulated.apply("yours", **SMALL | {"grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [2]}})
    before = created(simulated)
    simulated.step(loop, 2)
    assert created(simulated) == before
    assert simulated.condition("BudgetExhausted", "yours")["reason"] == "Overdrawn"


@pytest.mark.parametrize(("cap", "budget"), [(CAP_HOURS, {}), (1000, {"gpuHours": str(CAP_HOURS)})], ids=["cap", "budget of the study"])
def test_changing_the_store_does_not_reset_the_used_gpu_hours(cap: float, budget: dict[str, str]) -> None:
    simulated, loop = running_on_gpus(cap=cap, budget=budget)
    spend(simulated, loop)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.edit(store=OTHER_STORE)
    before = created(simulated)
    simulated.step(loop, 3)
    assert created(simulated) == before
    assert simulated.condition("BudgetExhausted")["reason"] == "Overdrawn"
    assert float(simulated.status()["gpuHours"]["used"]) > CAP_HOURS


@pytest.mark.parametrize("name", ["mine", "renamed"])
def test_a_deleted_and_recreated_study_is_billed_for_both_objects(name: str) -> None:
    simulated, loop = running_on_gpus()
    spend(simulated, loop)
    simulated.end_pods(ExitCode.STOPPED)
    used = account_of(simulated).used
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(loop)
    simulated.apply(name, **SMALL)
    before = created(simulated)
    simulated.step(loop, 3)
    assert account_of(simulated).used >= used > CAP_HOURS * 3600
    assert created(simulated) == before
    assert simulated.status(name)["phase"] == "Held"


def test_a_recreated_study_is_not_billed_twice_for_the_same_leases() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    spend(simulated, loop)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.step(loop)
    used = account_of(simulated).used
    for _ in range(3):
        simulated.cluster.delete("scalingstudies", "mine")
        simulated.step(loop)
        simulated.apply(**SMALL)
        simulated.step(loop)
    assert account_of(simulated).used == used


def test_a_study_being_deleted_is_stopped_and_its_pods_are_billed_until_they_end() -> None:
    simulated, loop = running_on_gpus()
    put_deletion(simulated)
    spend(simulated, loop)
    assert all_stopped(simulated)
    assert account_of(simulated).used >= GPUS * 600
    before = account_of(simulated).used
    spend(simulated, loop)
    assert account_of(simulated).used >= before + GPUS * 600


def test_pods_of_a_study_deleted_by_force_are_billed_until_they_end() -> None:
    simulated, loop = running_on_gpus()
    simulated.cluster.delete("scalingstudies", "mine")
    spend(simulated, loop)
    assert account_of(simulated).used >= GPUS * 600


@pytest.mark.parametrize("value", ["9" * 5000, "soon", "-1", "1.5", "२"])
def test_an_invalid_retry_is_refused_with_the_value_and_the_fix(value: str) -> None:
    simulated, loop = running_on_gpus(cap=1000)
    simulated.cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {"scaling-study.dev/retry": value}}})
    simulated.step(loop)
    accepted = simulated.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidRetry")
    assert value[:40] in accepted["message"]
    assert "scaling-study retry" in accepted["message"]
    assert len(accepted["message"]) < 400


def test_leases_of_pods_that_no_controller_observed_are_billed() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    for _ in range(3):  # the controller is down meanwhile
        simulated.clock.advance(600)
        simulated.end_pods(ExitCode.STOPPED)
        simulated.start_pods()
    simulated.end_pods(ExitCode.STOPPED)
    simulated.step(simulated.controller())
    assert account_of(simulated).used >= GPUS * 1800
    loop = simulated.controller()
    before = account_of(simulated).used
    simulated.step(loop, 2)
    assert account_of(simulated).used == before


def test_leases_of_a_study_deleted_while_no_controller_ran_are_billed() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    simulated.step(loop)
    simulated.clock.advance(600)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.start_pods()
    simulated.clock.advance(600)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(simulated.controller())
    account = account_of(simulated)
    assert account.used >= GPUS * 1200
    assert [entry.is_closed for entry in account.entries.values()] == [True]


def test_a_study_deleted_right_after_its_first_submission_is_billed() -> None:
    simulated = SimulatedCluster(gpus=GPUS)
    simulated.apply(**SMALL)

    def kill() -> Killed:
        return Killed()

    simulated.cluster.faults.append(ClusterFault("create", "workflows/*", "after", error=kill))
    with pytest.raises(Killed):
        simulated.step(simulated.controller())
    simulated.start_pods()
    simulated.clock.advance(600)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(simulated.controller())
    assert account_of(simulated).billed >= GPUS * 600


def test_usage_equal_to_the_cap_stops_nothing() -> None:
    simulated, loop = running_on_gpus(cap=1)
    simulated.clock.advance(450 - 61)
    simulated.step(loop)
    assert account_of(simulated).used == 3600
    assert not any(body["spec"].get("shutdown") for body in simulated.workflows())
    simulated.clock.advance(1 - 61)
    simulated.step(loop)
    assert all_stopped(simulated)


def test_an_ended_pod_that_still_exists_is_billed_only_until_its_end() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    (pod,) = simulated.cluster.list("pods").items
    simulated.clock.advance(100)
    at = simulated.clock.now
    ended = {"name": "main", "state": {"terminated": {"finishedAt": f"{at:%Y-%m-%dT%H:%M:%SZ}"}}}
    simulated.cluster.set_status("pods", pod["metadata"]["name"], {"phase": "Succeeded", "containerStatuses": [ended]})
    spend(simulated, loop, 5000)
    spend(simulated, loop, 5000)
    assert GPUS * 100 <= account_of(simulated).used <= GPUS * 102
    simulated.cluster.remove("pods", pod["metadata"]["name"])
    spend(simulated, loop, 5000)
    assert GPUS * 100 <= account_of(simulated).used <= GPUS * 102


def test_a_reset_by_the_platform_team_releases_held_studies_and_emits_an_event() -> None:
    simulated, loop = running_on_gpus()
    spend(simulated, loop)
    simulated.end_pods(ExitCode.STOPPED)
    simulated.step(loop, 2)
    assert simulated.status()["phase"] == "Held"
    billed = account_of(simulated).billed
    simulated.cluster.patch("gpuaccounts", ACCOUNT_NAME, {"spec": {"reset": "a new quarter"}})
    simulated.run_to_the_end(loop)
    account = account_of(simulated)
    assert account.billed >= billed, "a reset keeps the billed GPU-seconds"
    assert account.used < CAP_HOURS * 3600
    assert [reset.reason for reset in account.resets] == ["a new quarter"]
    (event,) = [body for body in simulated.cluster.list("events").items if body["reason"] == "AccountReset"]
    assert event["involvedObject"]["kind"] == "GpuAccount"


def test_nothing_is_submitted_while_the_account_cannot_be_written() -> None:
    simulated = SimulatedCluster()

    def refuse(kind: str, _body: Document) -> str | None:
        return "no such resource type" if kind == "gpuaccounts" else None

    simulated.cluster.admission.append(refuse)
    loop = simulated.controller()
    simulated.apply(**SMALL)
    simulated.step(loop, 3)
    assert not created(simulated)
    degraded = simulated.condition("Degraded")
    assert degraded["status"] == "True"
    assert "no such resource type" in degraded["message"]
    simulated.cluster.admission.clear()
    simulated.run_to_the_end(loop)


def test_a_controller_never_overwrites_what_another_has_billed() -> None:
    simulated, loop = running_on_gpus(cap=1000)
    spend(simulated, loop)
    snapshot = take_snapshot(simulated.cluster, simulated.clock.now)
    old_leader = Accounting(simulated.cluster, simulated.clock, LeaseCaches(lambda _url: simulated.store))
    old_leader.begin_round(snapshot)
    simulated.clock.advance(60)
    spend(simulated, simulated.controller())
    billed = account_of(simulated).billed
    old_leader.account.bill_pods(snapshot.pods, snapshot.workflows, {}, simulated.clock.now)
    with pytest.raises(Conflict):
        old_leader.save()
    assert account_of(simulated).billed == billed
