"""Training on two nodes of a real cluster: a JobSet of CPU pods with the gloo backend, created by the waiter of a Workflow."""

import json
from pathlib import Path

import pytest

from orchestrator.contract.vocabulary import LABEL_JOBSET
from orchestrator.controller.jobset_waiter import LABEL_INDEX
from orchestrator.spec import Execution
from orchestrator.store.checkpoints import list_checkpoints
from orchestrator.store.leases import history
from orchestrator.store.records import read_record
from orchestrator.workflow import short
from tests.e2e.installation import CONTROLLER_IMAGE
from tests.e2e.kubectl import Document, Kubectl, attempts, eventually, exit_code
from tests.e2e.small_study import SmallStudy, make_study
from tests.e2e.test_workflow import EVERYTHING

pytestmark = pytest.mark.cluster

SEED = 51
NODES = 2
# Long enough that a checkpoint is written every second while training
TOKENS = "384K"


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl) -> None:
    if "jobsets.jobset.x-k8s.io" not in kubectl.run("get", "crd", "-o", "name"):
        pytest.skip("JobSet is not installed on this cluster: `cluster add jobset` does it")


@pytest.fixture(scope="module")
def nodes_study(prepared: SmallStudy, root: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A separate study whose prepare tasks are done."""
    assert prepared.results()
    return make_study(tmp_path_factory.mktemp("nodes"), "nodes", root, seeds=(SEED,), tokens=TOKENS)


def on_the_oldest_node(execution: Execution, kubectl: Kubectl) -> Execution:
    """Return settings that select the oldest node, which has the images."""
    nodes = sorted(kubectl.json("get", "nodes")["items"], key=lambda node: node["metadata"]["creationTimestamp"])
    return execution.model_copy(update={"node_selector": {"kubernetes.io/hostname": nodes[0]["metadata"]["name"]}})


def multi_node_workflow(study: SmallStudy, namespace: str, execution: Execution, **changes: object) -> Document:
    """Return the Workflow of the study's only chain of train tasks, on NODES nodes."""
    (unit,) = study.train_units()
    settings = execution.model_copy(update={"nodes": {unit.size: NODES}})
    return study.workflow(unit, namespace, execution=settings, waiter_image=CONTROLLER_IMAGE, **changes)


def jobset_in(workflow: Document, digest: str) -> Document:
    """Return the JobSet of a task's waiter, with Argo's variables substituted."""
    train = next(entry for entry in workflow["spec"]["templates"] if entry["name"] == "train")
    text = next(entry["value"] for entry in train["container"]["env"] if entry["name"] == "JOBSET")
    for name, value in {
        "{{workflow.name}}": workflow["metadata"]["name"],
        "{{=inputs.parameters.short[:8]}}": digest[:8],
        "{{inputs.parameters.digest}}": digest,
        "{{inputs.parameters.short}}": short(digest),
        "{{retries}}": "0",
    }.items():
        text = text.replace(name, value)
    assert "{{" not in text
    found: Document = json.loads(text)
    return found


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("settings", ["minimal", "everything"])
def test_api_server_accepts_the_workflow_and_its_jobset(
    study: SmallStudy, kubectl: Kubectl, tmp_path: Path, root: str, settings: str
) -> None:
    assert study.units()
    nodes_study = make_study(tmp_path, "nodes", root, seeds=(SEED,), tokens=TOKENS)
    body = multi_node_workflow(nodes_study, kubectl.namespace, nodes_study.execution if settings == "minimal" else EVERYTHING)
    kubectl.create(body, dry_run=True)
    kubectl.create(jobset_in(body, nodes_study.train_units()[0].tasks[0]), dry_run=True)


@pytest.mark.usefixtures("installed")
def test_multi_node_training_resumes_after_the_loss_of_a_pod(nodes_study: SmallStudy, kubectl: Kubectl) -> None:
    (unit,) = nodes_study.train_units()
    body = multi_node_workflow(nodes_study, kubectl.namespace, on_the_oldest_node(nodes_study.execution, kubectl), checkpoint_seconds=1)
    name, first = body["metadata"]["name"], unit.tasks[0]
    kubectl.create(body)
    work = f"trajectories/{nodes_study.opened.plan.tasks[first].work}"
    # list the pods before the checkpoint: on a busy machine, listing takes longer than the remaining training
    pods = eventually(lambda: whole if len(whole := training_pods(kubectl, name)) == NODES else None, "the pods of both nodes")
    assert sorted(pods) == [str(index) for index in range(NODES)]
    eventually(lambda: list_checkpoints(nodes_study.store, work), "the first checkpoint")
    for pod in pods.values():
        (container,) = pod["spec"]["containers"]
        assert not [mount for mount in container["volumeMounts"] if "serviceaccount" in mount["mountPath"]], "no service account token"
    kubectl.run("delete", "pod", pods["1"]["metadata"]["name"], "--wait=false")
    finished = kubectl.finished(name)
    assert finished["status"]["phase"] == "Succeeded", finished["status"].get("message")
    waiters = [attempt for attempt in attempts(finished) if attempt["templateName"] == "train"]
    assert exit_code(waiters[0]) in ("75", "137", "143"), "the exit code of a stopped pod"
    assert [exit_code(attempt) for attempt in waiters[1:]] == ["0"] * (len(waiters) - 1)
    assert history(nodes_study.store, work)[1].from_tokens > 0, "it resumed from a checkpoint"
    record = read_record(nodes_study.store, first)
    assert record is not None
    assert [attempt.ranks for attempt in record.attempts] == [NODES, NODES]
    assert set(unit.tasks) <= nodes_study.results().keys(), "later tasks are done too"
    assert not [jobset for jobset in kubectl.json("get", "jobsets")["items"] if jobset["metadata"]["name"].startswith(name)]


def training_pods(kubectl: Kubectl, workflow: str) -> dict[str, Document]:
    """Return the training pods of a Workflow by index."""
    items = kubectl.json("get", "pods", "-l", LABEL_JOBSET)["items"]
    labelled = [(pod["metadata"]["labels"], pod) for pod in items]
    return {labels[LABEL_INDEX]: pod for labels, pod in labelled if labels[LABEL_JOBSET].startswith(workflow)}
