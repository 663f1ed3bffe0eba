"""Multi-node training: the JobSet in the Workflow, and the waiter that reports the outcome of its pods."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault, InMemoryCluster
from orchestrator.cluster.port import Document
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_JOBSET, LABEL_KIND, LABEL_MANAGED_BY, LABEL_QUEUE
from orchestrator.controller.__main__ import own_image
from orchestrator.controller.jobset_waiter import LABEL_INDEX, Waiter, show
from orchestrator.errors import ClusterError, ClusterUnavailable, NotFound, Refused
from orchestrator.planning import plan_study
from orchestrator.spec import Execution
from orchestrator.workflow import PodSettings, build_workflow, units
from orchestrator.workflow.yaml_writer import to_yaml
from tests.workflow.test_workflow import EXECUTION, check, study

GOLDEN = Path(__file__).parents[1] / "golden" / "workflow-over-nodes.yaml"
NODES = 2
OWNER = ("argo-pod", "uid-of-argo-pod")
WHERE = {"jobset": "demo-12345678-0"}


def built(**execution: Any) -> list[Document]:
    made = study(["0.09M"], [50], [1])
    plan = plan_study(made, {})
    asked = Execution.model_validate({**EXECUTION, "nodes": {"0.09M": NODES}, **execution})
    settings = PodSettings("team", made.name, "uid-1", made.spec.store, 3, asked, waiter_image="localhost/controller:dev")
    return [build_workflow(unit, plan, settings) for unit in units(plan)]


def template(workflow: Document, kind: str) -> Document:
    found: Document = next(entry for entry in workflow["spec"]["templates"] if entry["name"] == kind)
    return found


def value(container: Document, name: str) -> str:
    return str(next(entry["value"] for entry in container["env"] if entry["name"] == name))


@pytest.fixture(scope="module")
def train() -> Document:
    return template(built()[-1], "train")


@pytest.fixture(scope="module")
def jobset(train: Document) -> Document:
    found: Document = json.loads(value(train["container"], "JOBSET"))
    return found


def job_of(jobset: Document) -> Document:
    (job,) = jobset["spec"]["replicatedJobs"]
    found: Document = job["template"]["spec"]
    return found


def test_multi_node_training_is_one_jobset_without_automatic_restarts(jobset: Document) -> None:
    job = job_of(jobset)
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (NODES, NODES, "Indexed", 0)
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 0}
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_trainer_differs_from_a_single_pod_only_in_the_number_of_nodes(jobset: Document) -> None:
    (trainer,) = job_of(jobset)["template"]["spec"]["containers"]
    alone = template(built(nodes={})[-1], "train")["container"]
    assert set(trainer["args"]) - set(alone["args"]) == {f"--nodes={NODES}"}
    for key in alone.keys() - {"args", "env"}:
        assert trainer[key] == alone[key]
    name = jobset["metadata"]["name"]
    assert value(trainer, "MASTER_ADDR") == f"{name}-n-0-0.{jobset['spec']['network']['subdomain']}"


def test_pods_of_the_jobset_have_the_placement_of_other_pods(jobset: Document) -> None:
    pod = job_of(jobset)["template"]["spec"]
    spec = built(nodes={})[-1]["spec"]
    for key in ("securityContext", "volumes", "nodeSelector", "tolerations", "serviceAccountName"):
        assert pod[key] == spec[key]
    assert pod["priorityClassName"] == spec["podPriorityClassName"]
    assert pod["terminationGracePeriodSeconds"] == EXECUTION["graceSeconds"]
    assert pod["automountServiceAccountToken"] is False


def test_only_the_waiter_has_a_token_and_it_has_no_secret(train: Document) -> None:
    assert (train["serviceAccountName"], train["automountServiceAccountToken"]) == ("scaling-study-waiter", True)
    assert "envFrom" not in train["container"]
    assert "nvidia.com/gpu" not in json.dumps(train["container"]["resources"])
    assert json.loads(train["podSpecPatch"])["terminationGracePeriodSeconds"] > EXECUTION["graceSeconds"]
    evaluate = template(built()[-1], "evaluate")
    assert "automountServiceAccountToken" not in evaluate
    assert evaluate["container"]["resources"]["limits"]["nvidia.com/gpu"] == "1", "an evaluation is one process"


def test_the_jobset_is_queued_and_the_waiter_is_not(train: Document, jobset: Document) -> None:
    assert jobset["metadata"]["labels"][LABEL_QUEUE] == "research"
    assert LABEL_QUEUE not in train["metadata"]["labels"]


def test_only_the_waiter_has_the_managed_by_label(jobset: Document) -> None:
    labels = job_of(jobset)["template"]["metadata"]["labels"]
    assert labels[LABEL_KIND] == "train"
    assert LABEL_DIGEST in labels
    assert LABEL_MANAGED_BY not in labels


def test_names_are_short_enough_for_a_thousand_nodes_and_attempts(jobset: Document) -> None:
    def filled(text: str) -> str:
        text = text.replace("{{workflow.name}}", "ss-" + "a" * 20).replace("{{retries}}", "1000")
        return text.replace("{{=inputs.parameters.short[:8]}}", "b" * 8)

    name = filled(jobset["metadata"]["name"])
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-n-0-1023-xxxxx") <= 63


def test_multi_node_workflows_stay_within_size_limits() -> None:
    for workflow in built():
        check(workflow)


def test_a_multi_node_workflow_has_golden_bytes() -> None:
    text = to_yaml(built()[-1])
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "GOLDEN=write rewrites the golden files"


def test_the_waiter_has_the_image_of_the_controllers_pod(cluster: InMemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAME", raising=False)
    assert own_image(cluster) == "", "a process outside a pod has no image"
    cluster.put("pods", {"metadata": {"name": "controller-1"}, "spec": {"containers": [{"image": "registry.example.com/controller:1"}]}})
    monkeypatch.setenv("POD_NAME", "controller-1")
    assert own_image(cluster) == "registry.example.com/controller:1"
    cluster.faults.append(ClusterFault("get", "pods/*"))
    assert own_image(cluster) == "", "an unknown image affects only multi-node training"


# The waiter


class Jobs:
    """JobSet, the Job controller and the kubelet, simulated."""

    def __init__(self, cluster: InMemoryCluster) -> None:
        self.cluster = cluster

    def name(self, index: int) -> str:
        return f"{WHERE['jobset']}-n-0-{index}-abcde"

    def starts(self) -> None:
        eventually(lambda: self.cluster.get("jobsets", WHERE["jobset"]))
        uid = (self.cluster.get("jobsets", WHERE["jobset"]) or {})["metadata"]["uid"]
        for index in range(2):
            labels = {LABEL_JOBSET: WHERE["jobset"], LABEL_INDEX: str(index)}
            owner = {"kind": "Job", "name": "job", "uid": uid}
            metadata = {"name": self.name(index), "labels": labels, "ownerReferences": [owner]}
            self.cluster.put("pods", {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}})
            self.runs(index)

    def runs(self, index: int) -> None:
        state = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}
        self.cluster.set_status("pods", self.name(index), state)

    def ends(self, index: int, code: int, reason: str = "Error") -> None:
        ended = {"exitCode": code, "reason": reason}
        state = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"name": "main", "state": {"terminated": ended}}]}
        self.cluster.set_status("pods", self.name(index), state)


def eventually(look: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def cluster() -> InMemoryCluster:
    return InMemoryCluster()


@pytest.fixture
def jobs(cluster: InMemoryCluster) -> Jobs:
    return Jobs(cluster)


def waiter_of(cluster: InMemoryCluster, lines: list[str] | None = None, patience: float = 90.0) -> Waiter:
    take = (lambda _: None) if lines is None else lines.append
    return Waiter(cluster, {"metadata": {"name": WHERE["jobset"]}, "spec": {}}, OWNER, take, patience)


@contextmanager
def waiting(waiter: Waiter) -> Iterator[list[int]]:
    """Run the waiter in a thread; the yielded list holds its exit code afterwards."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(int(waiter.run())), daemon=True)
    thread.start()
    yield codes
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("code", [0, 1, ExitCode.HELD, ExitCode.STOPPED, ExitCode.REFUSED, 137])
def test_the_exit_code_of_the_first_pod_is_returned_and_the_jobset_deleted(cluster: InMemoryCluster, jobs: Jobs, code: int) -> None:
    with waiting(waiter_of(cluster)) as codes:
        jobs.starts()
        jobs.ends(0, code)
    assert codes == [code]
    assert cluster.get("jobsets", WHERE["jobset"]) is None


@pytest.mark.parametrize(
    ("first", "other", "reason", "expected"),
    [
        (ExitCode.STOPPED, 1, "Error", 1),
        (ExitCode.STOPPED, ExitCode.REFUSED, "Error", ExitCode.REFUSED),
        (ExitCode.STOPPED, 137, "Error", ExitCode.STOPPED),
        (ExitCode.STOPPED, 137, "OOMKilled", ExitCode.REFUSED),
        (137, 137, "OOMKilled", ExitCode.REFUSED),
        (0, 1, "Error", 0),
    ],
)
def test_the_failure_of_another_pod_decides_about_a_retry(
    cluster: InMemoryCluster, jobs: Jobs, first: int, other: int, reason: str, expected: int
) -> None:
    waiter = waiter_of(cluster)
    with waiting(waiter) as codes:
        jobs.starts()
        jobs.ends(1, other, reason)
        jobs.ends(0, first)
    assert codes == [expected]
    assert ("OOMKilled" in waiter.reason) == (reason == "OOMKilled")


def test_the_waiting_pod_owns_the_jobset(cluster: InMemoryCluster, jobs: Jobs) -> None:
    with waiting(waiter_of(cluster)):
        jobs.starts()
        (owner,) = (cluster.get("jobsets", WHERE["jobset"]) or {})["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", *OWNER)
        jobs.ends(0, 0)


def test_after_a_stop_request_the_waiter_stops_every_pod_and_waits_for_the_checkpoint(cluster: InMemoryCluster, jobs: Jobs) -> None:
    waiter = waiter_of(cluster)
    with waiting(waiter) as codes:
        jobs.starts()
        waiter.stop()
        eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in cluster.list("pods").items))
        assert codes == []
        jobs.ends(1, ExitCode.STOPPED)
        jobs.ends(0, ExitCode.STOPPED)
    assert codes == [ExitCode.STOPPED]


def test_a_stop_request_before_the_pods_exist_ends_the_waiter(cluster: InMemoryCluster) -> None:
    waiter = waiter_of(cluster)
    with waiting(waiter) as codes:
        eventually(lambda: cluster.get("jobsets", WHERE["jobset"]))
        waiter.stop()
    assert codes == [ExitCode.STOPPED]


def test_a_stop_request_before_the_jobset_is_confirmed_deletes_it(cluster: InMemoryCluster) -> None:
    cluster.faults.append(ClusterFault("create", "jobsets/*", "after", times=-1))
    waiter = waiter_of(cluster)
    with waiting(waiter) as codes:
        eventually(lambda: cluster.get("jobsets", WHERE["jobset"]))
        waiter.stop()
    assert (codes, waiter.reason) == ([ExitCode.STOPPED], "a stop was requested before the JobSet was created")
    assert cluster.get("jobsets", WHERE["jobset"]) is None


def test_the_reason_for_a_missing_jobset_is_reported(cluster: InMemoryCluster) -> None:
    body = {"metadata": {"name": WHERE["jobset"], "ownerReferences": [{"uid": "another"}]}, "spec": {}}
    cluster.faults.append(ClusterFault("*", "jobsets/*", times=-1, error=lambda: ClusterUnavailable("the API is unreachable")))
    unreachable = waiter_of(cluster, patience=0.1)
    assert (unreachable.run(), unreachable.reason) == (ExitCode.HELD, "the API is unreachable")
    cluster.faults[:] = [ClusterFault("delete", "jobsets/*", times=-1, error=lambda: ClusterUnavailable("not now"))]
    cluster.put("jobsets", body)
    cannot_clear = waiter_of(cluster, patience=0.1)
    assert (cannot_clear.run(), cannot_clear.reason) == (ExitCode.HELD, "not now")


@pytest.mark.parametrize("what", ["pods", "jobsets"])
def test_pods_lost_without_an_exit_code_are_retried(cluster: InMemoryCluster, jobs: Jobs, what: str) -> None:
    waiter = waiter_of(cluster)
    with waiting(waiter) as codes:
        if what == "pods":
            jobs.starts()
            eventually(lambda: jobs.name(0) in waiter._pods)
            cluster.remove("pods", jobs.name(0))
        else:
            eventually(lambda: cluster.get("jobsets", WHERE["jobset"]))
            cluster.remove("jobsets", WHERE["jobset"])
    assert codes == [137]


def test_a_jobset_created_before_a_lost_response_is_adopted(cluster: InMemoryCluster, jobs: Jobs) -> None:
    cluster.faults.append(ClusterFault("create", "jobsets/*", "after"))
    with waiting(waiter_of(cluster)) as codes:
        jobs.starts()
        jobs.ends(0, 0)
    assert codes == [0]
    assert [call for call in cluster.calls if call[0] == "create"] == [("create", f"jobsets/{WHERE['jobset']}")] * 2


def test_a_jobset_of_another_pod_is_deleted_first(cluster: InMemoryCluster, jobs: Jobs) -> None:
    cluster.put("jobsets", {"metadata": {"name": WHERE["jobset"], "ownerReferences": [{"uid": "another"}]}, "spec": {"old": True}})
    with waiting(waiter_of(cluster)) as codes:
        eventually(lambda: "old" not in (cluster.get("jobsets", WHERE["jobset"]) or {"spec": {"old": 1}})["spec"])
        jobs.starts()
        jobs.ends(0, 0)
    assert codes == [0]


def test_an_api_outage_changes_nothing(cluster: InMemoryCluster, jobs: Jobs) -> None:
    with waiting(waiter_of(cluster)) as codes:
        jobs.starts()
        cluster.faults.append(ClusterFault("list", "pods", times=2, error=lambda: ClusterUnavailable("unreachable")))
        jobs.ends(0, ExitCode.STOPPED)
    assert codes == [ExitCode.STOPPED]


@pytest.mark.parametrize("problem", [Refused("jobsets is forbidden: exceeded quota"), NotFound("404 page not found")])
def test_the_rejection_message_of_the_api_is_raised(cluster: InMemoryCluster, problem: ClusterError) -> None:
    cluster.faults.append(ClusterFault("create", "jobsets/*", error=lambda: problem))
    with pytest.raises(ClusterError, match=str(problem)):
        waiter_of(cluster).run()


def test_the_log_of_the_first_pod_is_shown_once_and_its_progress_written_for_argo(
    cluster: InMemoryCluster, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    cluster.pod_logs[jobs.name(0)] = ["a begins", "64 / 128 tokens, loss 3.1000"]
    cluster.pod_logs[jobs.name(1)] = ["what another rank says"]
    with waiting(waiter_of(cluster, lines)):
        jobs.starts()
        eventually(lambda: len(lines) == 2)
        cluster.pod_logs[jobs.name(0)].append("128 / 128 tokens, loss 3.0000")
        jobs.ends(0, 0)
    assert lines == ["a begins", "64 / 128 tokens, loss 3.1000", "128 / 128 tokens, loss 3.0000"]
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(tmp_path / "progress"))
    for line in lines[:2]:
        show(line)
    assert (tmp_path / "progress").read_text() == "64/128"
