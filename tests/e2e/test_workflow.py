"""Workflows on a real cluster: accepted as rendered, retried by exit code, and with the same results after disturbances."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.contract.exits import ExitCode
from orchestrator.spec import Execution
from orchestrator.store.checkpoints import list_checkpoints
from orchestrator.store.leases import history
from orchestrator.store.records import read_record
from orchestrator.workflow import Unit
from tests.e2e.conftest import SEEDS
from tests.e2e.kubectl import Document, Kubectl, attempts, eventually, exit_code
from tests.e2e.small_study import SmallStudy

pytestmark = pytest.mark.cluster

# Sets all keys of `execution`
EVERYTHING = Execution.model_validate(
    {
        "image": "registry.example.com/trainer@sha256:" + "0" * 64,
        "gpusPerPod": {"0.01M": 8},
        "microBatch": 4,
        "queue": "research",
        "priorityClass": "batch",
        "pullSecrets": ["registry"],
        "storeSecret": "store",
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "graceSeconds": 600,
    }
)


def with_command(body: Document, script: str) -> Document:
    """Replace the command of a Workflow's pods by a script with the same arguments."""
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["command"] = ["python", "-c", script]
    return body


def first_task_only(study: SmallStudy, seed: int) -> Unit:
    """Return a unit with only the first train task of a chain."""
    unit = study.train_units()[SEEDS.index(seed)]
    return replace(unit, tasks=unit.tasks[:1])


@pytest.mark.parametrize("settings", ["minimal", "everything"])
def test_api_server_accepts_every_rendered_kind(study: SmallStudy, kubectl: Kubectl, settings: str) -> None:
    changes: Document = {"execution": EVERYTHING, "study_uid": "0c3f"} if settings == "everything" else {}
    changes["run_number"] = 1000  # gives names that no other test uses
    kubectl.create(*(study.workflow(unit, kubectl.namespace, **changes) for unit in study.units()), dry_run=True)


def test_argo_lint_reports_no_errors(study: SmallStudy, kubectl: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "workflows.yaml"
    file.write_text(yaml.safe_dump_all(study.workflow(unit, kubectl.namespace, execution=EVERYTHING) for unit in study.units()))
    done = subprocess.run(["argo", "lint", "--offline", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_undisturbed_workflow_equals_local_run(prepared: SmallStudy, kubectl: Kubectl, undisturbed: dict[str, Document]) -> None:
    unit = prepared.train_units()[0]
    body = prepared.workflow(unit, kubectl.namespace)
    kubectl.create(body)
    finished = kubectl.finished(body["metadata"]["name"])
    assert finished["status"]["phase"] == "Succeeded"
    assert len(attempts(finished)) == len(unit.tasks)
    assert_equal_results(prepared, unit, undisturbed)
    assert {digest for digest in undisturbed if prepared.opened.plan.tasks[digest].kind == "prepare"} <= prepared.results().keys()


def delete(kubectl: Kubectl, pod: str) -> None:
    kubectl.run("delete", "pod", pod, "--wait=false")


def evict(kubectl: Kubectl, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kubectl.namespace}}
    kubectl.run("create", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction", "-f", "-", given=json.dumps(body))


# Argo's own process has the trainer in its arguments too, but is not a Python process
KILL = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit() and int(folder.name) != os.getpid():
        arguments = (folder / "cmdline").read_bytes().split(b"\\0")
        if arguments[0].endswith(b"python") and b"trainer" in arguments:
            os.kill(int(folder.name), signal.SIGKILL)
"""


def kill(kubectl: Kubectl, pod: str) -> None:
    kubectl.run("exec", pod, "-c", "main", "--", "python", "-c", KILL)


@pytest.mark.parametrize(
    ("seed", "disturb", "code"),
    [(2, delete, ExitCode.STOPPED), (3, evict, ExitCode.STOPPED), (4, kill, 137)],
    ids=["pod deleted", "pod evicted", "process killed"],
)
def test_disturbed_workflow_resumes_with_equal_results(
    prepared: SmallStudy,
    kubectl: Kubectl,
    undisturbed: dict[str, Document],
    seed: int,
    disturb: Callable[[Kubectl, str], None],
    code: int,
) -> None:
    unit = prepared.train_units()[SEEDS.index(seed)]
    body = prepared.workflow(unit, kubectl.namespace, checkpoint_seconds=1)
    name = body["metadata"]["name"]
    kubectl.create(body)
    work = f"trajectories/{prepared.opened.plan.tasks[unit.tasks[0]].work}"
    eventually(lambda: list_checkpoints(prepared.store, work), "the first checkpoint")
    (pod,) = kubectl.pods_of(name)
    disturb(kubectl, pod["metadata"]["name"])
    finished = kubectl.finished(name)
    assert finished["status"]["phase"] == "Succeeded"
    first, second = attempts(finished)[:2]
    assert [exit_code(first), exit_code(second)] == [str(int(code)), "0"]
    assert len(attempts(finished)) == len(unit.tasks) + 1
    assert history(prepared.store, work)[1].from_tokens > 0, "it resumed from a checkpoint"
    record = read_record(prepared.store, unit.tasks[0])
    assert record is not None
    assert len(record.attempts) == 2
    assert_equal_results(prepared, unit, undisturbed)


def assert_equal_results(study: SmallStudy, unit: Unit, expected: dict[str, Document]) -> None:
    """Assert that the results of a unit's tasks are equal bit for bit."""
    found = study.results()
    assert {digest: found.get(digest) for digest in unit.tasks} == {digest: expected[digest] for digest in unit.tasks}


@pytest.mark.parametrize(
    ("code", "is_retried"),
    [(1, True), (ExitCode.HELD, True), (ExitCode.STOPPED, True), (137, True), (143, True), (ExitCode.REFUSED, False)],
)
def test_exit_code_determines_whether_a_task_is_retried(study: SmallStudy, kubectl: Kubectl, code: int, is_retried: bool) -> None:
    """Runs a script that exits with `code` in the first attempt and with 0 in the second, by the attempt number in --node."""
    script = f"import sys; sys.exit({int(code)} if any(word.startswith('--node=') and word.endswith('(0)') for word in sys.argv) else 0)"
    body = with_command(study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=1000 + code), script)
    body["metadata"]["name"] += f"-{int(code)}"
    kubectl.create(body)
    finished = kubectl.finished(body["metadata"]["name"])
    assert [exit_code(attempt) for attempt in attempts(finished)] == [str(int(code)), *(["0"] if is_retried else [])]
    assert finished["status"]["phase"] == ("Succeeded" if is_retried else "Failed")


def test_pod_killed_for_memory_is_not_retried(study: SmallStudy, kubectl: Kubectl) -> None:
    body = with_command(study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=2), "b'x' * 2**30")
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["resources"] = {"limits": {"memory": "100Mi"}}
    kubectl.create(body)
    finished = kubectl.finished(body["metadata"]["name"])
    assert finished["status"]["phase"] == "Failed"
    (attempt,) = attempts(finished)
    assert "OOMKilled" in attempt["message"]


def test_missing_image_is_reported_and_causes_no_second_pod(study: SmallStudy, kubectl: Kubectl) -> None:
    execution = study.execution.model_copy(update={"image": "localhost/not-there:1"})
    body = study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=3, execution=execution)
    name = body["metadata"]["name"]
    kubectl.create(body)

    def named() -> str | None:
        return next((node["message"] for node in attempts(kubectl.workflow(name)) if "not-there" in node.get("message", "")), None)

    reason = eventually(named, "the image is reported", seconds=60)
    assert "Image" in reason
    assert len(kubectl.pods_of(name)) == 1
    kubectl.run("delete", "workflow", name, "--wait=false")


def test_pod_rejected_by_admission_is_not_retried_at_once(study: SmallStudy, kubectl: Kubectl) -> None:
    body = study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=4)
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["securityContext"] = {"privileged": True, "allowPrivilegeEscalation": True}
    kubectl.create(body)
    finished = kubectl.finished(body["metadata"]["name"])
    (attempt,) = attempts(finished)
    assert "forbidden" in attempt["message"]
    assert "restricted" in attempt["message"]
