"""Training over two nodes on a real cluster: a JobSet of CPU pods that speak gloo, made by the waiter in a Workflow."""

import json
from pathlib import Path

import pytest

from orchestrator.controller.jobset_waiter import LABEL_INDEX, LABEL_JOBSET
from orchestrator.spec import Execution
from orchestrator.store.checkpoints import kept
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
# A second of training between two checkpoints is in the middle of it
TOKENS = "384K"


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl) -> None:
    if "jobsets.jobset.x-k8s.io" not in kubectl.run("get", "crd", "-o", "name"):
        pytest.skip("JobSet is not installed on this cluster: `cluster add jobset` does it")


@pytest.fixture(scope="module")
def line(prepared: SmallStudy, root: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A study of its own whose sources are done."""
    assert prepared.results()
    return make_study(tmp_path_factory.mktemp("nodes"), "nodes", root, seeds=(SEED,), tokens=TOKENS)


def on_the_oldest_node(execution: Execution, kubectl: Kubectl) -> Execution:
    """The one that has the images: others come and go."""
    nodes = sorted(kubectl.json("get", "nodes")["items"], key=lambda node: node["metadata"]["creationTimestamp"])
    return execution.model_copy(update={"node_selector": {"kubernetes.io/hostname": nodes[0]["metadata"]["name"]}})


def over_nodes(study: SmallStudy, namespace: str, execution: Execution, **changes: object) -> Document:
    """The Workflow of the study's only line of work."""
    (unit,) = study.train_units()
    asked = execution.model_copy(update={"nodes": {unit.size: NODES}})
    return study.workflow(unit, namespace, execution=asked, waiter_image=CONTROLLER_IMAGE, **changes)


def jobset_in(workflow: Document, digest: str) -> Document:
    """The JobSet that the Workflow's waiter is given for a task, with the names that Argo fills in."""
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
@pytest.mark.parametrize("asked", ["little", "everything"])
def test_the_workflow_and_its_jobset_are_accepted(study: SmallStudy, kubectl: Kubectl, tmp_path: Path, root: str, asked: str) -> None:
    assert study.units()
    line = make_study(tmp_path, "nodes", root, seeds=(SEED,), tokens=TOKENS)
    body = over_nodes(line, kubectl.namespace, line.execution if asked == "little" else EVERYTHING)
    kubectl.create(body, dry_run=True)
    kubectl.create(jobset_in(body, line.train_units()[0].tasks[0]), dry_run=True)


@pytest.mark.usefixtures("installed")
def test_two_nodes_train_one_model_and_go_on_when_one_of_them_is_lost(line: SmallStudy, kubectl: Kubectl) -> None:
    (unit,) = line.train_units()
    body = over_nodes(line, kubectl.namespace, on_the_oldest_node(line.execution, kubectl), checkpoint_seconds=1)
    name, first = body["metadata"]["name"], unit.tasks[0]
    kubectl.create(body)
    work = f"trajectories/{line.opened.plan.tasks[first].work}"
    # before the checkpoint: on a machine that is busy elsewhere a look at the pods takes longer than the training after it
    pods = eventually(lambda: whole if len(whole := training_pods(kubectl, name)) == NODES else None, "the pods of both nodes")
    assert sorted(pods) == [str(index) for index in range(NODES)]
    eventually(lambda: kept(line.store, work), "the first checkpoint")
    for pod in pods.values():
        (container,) = pod["spec"]["containers"]
        assert not [mount for mount in container["volumeMounts"] if "serviceaccount" in mount["mountPath"]], "no token of the cluster"
    kubectl.run("delete", "pod", pods["1"]["metadata"]["name"], "--wait=false")
    over = kubectl.finished(name)
    assert over["status"]["phase"] == "Succeeded", over["status"].get("message")
    waiters = [attempt for attempt in attempts(over) if attempt["templateName"] == "train"]
    assert exit_code(waiters[0]) in ("75", "137", "143"), "as a pod that was stopped"
    assert [exit_code(attempt) for attempt in waiters[1:]] == ["0"] * (len(waiters) - 1)
    assert history(line.store, work)[1].from_tokens > 0, "it went on from a checkpoint"
    record = read_record(line.store, first)
    assert record is not None
    assert [attempt.ranks for attempt in record.attempts] == [NODES, NODES]
    assert set(unit.tasks) <= line.results().keys(), "what comes after it has been done too"
    assert not [jobset for jobset in kubectl.json("get", "jobsets")["items"] if jobset["metadata"]["name"].startswith(name)]


def training_pods(kubectl: Kubectl, workflow: str) -> dict[str, Document]:
    """By index."""
    items = kubectl.json("get", "pods", "-l", LABEL_JOBSET)["items"]
    labelled = [(pod["metadata"]["labels"], pod) for pod in items]
    return {labels[LABEL_INDEX]: pod for labels, pod in labelled if labels[LABEL_JOBSET].startswith(workflow)}
