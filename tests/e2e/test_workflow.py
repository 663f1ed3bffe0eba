"""Workflows on a real cluster: accepted as rendered, restarted by the rules of the exit codes, and exact however they are disturbed."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.contract.vocabulary import ExitCode
from orchestrator.spec import Execution
from orchestrator.store.checkpoints import kept
from orchestrator.store.leases import history
from orchestrator.store.records import read_record
from orchestrator.workflow import Unit
from tests.e2e.conftest import SEEDS
from tests.e2e.kubectl import Document, Kubectl, attempts, eventually, exit_code
from tests.e2e.small_study import SmallStudy

pytestmark = pytest.mark.cluster

# Everything that a study file can ask of its pods
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
    """The Workflow with another program in its pods, which gets the same arguments."""
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["command"] = ["python", "-c", script]
    return body


def first_task_only(study: SmallStudy, seed: int) -> Unit:
    """The first train task of a line of work, as a unit of its own."""
    unit = study.train_units()[SEEDS.index(seed)]
    return replace(unit, tasks=unit.tasks[:1])


@pytest.mark.parametrize("asked", ["little", "everything"])
def test_every_rendered_kind_is_accepted(study: SmallStudy, kubectl: Kubectl, asked: str) -> None:
    changes: Document = {"execution": EVERYTHING, "study_uid": "0c3f"} if asked == "everything" else {}
    changes["run_number"] = 1000  # names that no other test has given
    kubectl.create(*(study.workflow(unit, kubectl.namespace, **changes) for unit in study.units()), dry_run=True)


def test_argo_finds_nothing_to_complain_of(study: SmallStudy, kubectl: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "workflows.yaml"
    file.write_text(yaml.safe_dump_all(study.workflow(unit, kubectl.namespace, execution=EVERYTHING) for unit in study.units()))
    done = subprocess.run(["argo", "lint", "--offline", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_an_undisturbed_workflow_gives_what_a_local_run_gives(
    prepared: SmallStudy, kubectl: Kubectl, undisturbed: dict[str, Document]
) -> None:
    unit = prepared.train_units()[0]
    body = prepared.workflow(unit, kubectl.namespace)
    kubectl.create(body)
    over = kubectl.finished(body["metadata"]["name"])
    assert over["status"]["phase"] == "Succeeded"
    assert len(attempts(over)) == len(unit.tasks)
    assert_equal_results(prepared, unit, undisturbed)
    assert {digest for digest in undisturbed if prepared.opened.plan.tasks[digest].kind == "prepare"} <= prepared.results().keys()


def delete(kubectl: Kubectl, pod: str) -> None:
    kubectl.run("delete", "pod", pod, "--wait=false")


def evict(kubectl: Kubectl, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kubectl.namespace}}
    kubectl.run("create", "--raw", f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction", "-f", "-", given=json.dumps(body))


# Argo's own process, whose arguments name the trainer too, is not a Python
KILL = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit() and int(folder.name) != os.getpid():
        words = (folder / "cmdline").read_bytes().split(b"\\0")
        if words[0].endswith(b"python") and b"trainer" in words:
            os.kill(int(folder.name), signal.SIGKILL)
"""


def kill(kubectl: Kubectl, pod: str) -> None:
    kubectl.run("exec", pod, "-c", "main", "--", "python", "-c", KILL)


@pytest.mark.parametrize(
    ("seed", "disturb", "code"),
    [(2, delete, ExitCode.STOPPED), (3, evict, ExitCode.STOPPED), (4, kill, 137)],
    ids=["pod deleted", "pod evicted", "process killed"],
)
def test_a_disturbed_workflow_resumes_and_gives_the_same(
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
    eventually(lambda: kept(prepared.store, work), "the first checkpoint")
    (pod,) = kubectl.pods_of(name)
    disturb(kubectl, pod["metadata"]["name"])
    over = kubectl.finished(name)
    assert over["status"]["phase"] == "Succeeded"
    first, second = attempts(over)[:2]
    assert [exit_code(first), exit_code(second)] == [str(int(code)), "0"]
    assert len(attempts(over)) == len(unit.tasks) + 1
    assert history(prepared.store, work)[1].from_tokens > 0, "it went on from a checkpoint"
    record = read_record(prepared.store, unit.tasks[0])
    assert record is not None
    assert len(record.attempts) == 2
    assert_equal_results(prepared, unit, undisturbed)


def assert_equal_results(study: SmallStudy, unit: Unit, expected: dict[str, Document]) -> None:
    """Bit for bit."""
    found = study.results()
    assert {digest: found.get(digest) for digest in unit.tasks} == {digest: expected[digest] for digest in unit.tasks}


@pytest.mark.parametrize(
    ("code", "again"),
    [(1, True), (ExitCode.HELD, True), (ExitCode.STOPPED, True), (137, True), (143, True), (ExitCode.REFUSED, False)],
)
def test_an_exit_code_decides_about_a_restart(study: SmallStudy, kubectl: Kubectl, code: int, again: bool) -> None:
    """A program that ends with `code` at first and well the second time, which it knows by the name of its node."""
    script = f"import sys; sys.exit({int(code)} if any(word.startswith('--node=') and word.endswith('(0)') for word in sys.argv) else 0)"
    body = with_command(study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=1000 + code), script)
    body["metadata"]["name"] += f"-{int(code)}"
    kubectl.create(body)
    over = kubectl.finished(body["metadata"]["name"])
    assert [exit_code(attempt) for attempt in attempts(over)] == [str(int(code)), *(["0"] if again else [])]
    assert over["status"]["phase"] == ("Succeeded" if again else "Failed")


def test_a_pod_that_ran_out_of_memory_is_not_started_again(study: SmallStudy, kubectl: Kubectl) -> None:
    body = with_command(study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=2), "b'x' * 2**30")
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["resources"] = {"limits": {"memory": "100Mi"}}
    kubectl.create(body)
    over = kubectl.finished(body["metadata"]["name"])
    assert over["status"]["phase"] == "Failed"
    (attempt,) = attempts(over)
    assert "OOMKilled" in attempt["message"]


def test_a_missing_image_is_named_and_no_second_pod_is_made(study: SmallStudy, kubectl: Kubectl) -> None:
    execution = study.execution.model_copy(update={"image": "localhost/not-there:1"})
    body = study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=3, execution=execution)
    name = body["metadata"]["name"]
    kubectl.create(body)

    def named() -> str | None:
        return next((node["message"] for node in attempts(kubectl.workflow(name)) if "not-there" in node.get("message", "")), None)

    reason = eventually(named, "the image is named", seconds=60)
    assert "Image" in reason
    assert len(kubectl.pods_of(name)) == 1
    kubectl.run("delete", "workflow", name, "--wait=false")


def test_a_pod_that_admission_refuses_is_not_retried_within_the_second(study: SmallStudy, kubectl: Kubectl) -> None:
    body = study.workflow(first_task_only(study, 1), kubectl.namespace, run_number=4)
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["securityContext"] = {"privileged": True, "allowPrivilegeEscalation": True}
    kubectl.create(body)
    over = kubectl.finished(body["metadata"]["name"])
    (attempt,) = attempts(over)
    assert "forbidden" in attempt["message"]
    assert "restricted" in attempt["message"]
