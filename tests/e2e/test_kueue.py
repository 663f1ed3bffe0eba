"""Training pods in a Kueue queue: the quota is never exceeded, and a preempted task resumes from its checkpoint.

The GPUs of the test cluster are an extended resource without hardware: pods request them, and the trainer runs with --gpus=0.
"""

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.cluster.kubernetes_api import connect
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import LABEL_QUEUE, TaskKind
from orchestrator.errors import ClusterError
from orchestrator.reconcile.observed import LABEL_WORKFLOW, TERMINAL
from orchestrator.store import open_store
from orchestrator.store.checkpoints import list_checkpoints
from orchestrator.store.leases import history
from orchestrator.store.records import read_record
from tests.e2e.kubectl import Document, Kubectl, attempts, eventually, exit_code
from tests.e2e.small_study import SmallStudy, make_study
from tests.e2e.test_nodes import multi_node_workflow, on_the_oldest_node, training_pods

pytestmark = pytest.mark.cluster

QUOTA = 2
SEEDS = (11, 12, 13)
KUEUE = "kueue.x-k8s.io/v1beta1"
QUEUE = "research"
# About ten seconds of training, long enough for a preemption
TOKENS = "200K"
# Timeout in seconds, for three queued pods and an urgent one on two cores
TIMEOUT = 600


@dataclass
class Queue:
    """A local queue. `urgent`: the priority class that preempts its pods."""

    urgent: str


@pytest.fixture(scope="module")
def queue(kubectl: Kubectl) -> Iterator[Queue]:
    """A queue of two GPUs in the session's namespace."""
    if "clusterqueues.kueue.x-k8s.io" not in kubectl.run("get", "crd", "-o", "name"):
        pytest.skip("Kueue is not installed on this cluster")
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    covered = {"nvidia.com/gpu": str(QUOTA), "cpu": "1k", "memory": "1Ti"}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {
                "coveredResources": [*covered],
                "flavors": [{"name": name, "resources": [{"name": what, "nominalQuota": most} for what, most in covered.items()]}],
            }
        ],
    }
    kubectl.apply(
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": 1000, "description": "of a test"},
        {
            "apiVersion": KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": QUEUE, "namespace": kubectl.namespace},
            "spec": {"clusterQueue": name},
        },
    )
    yield Queue(urgent=name)
    kubectl.run("delete", "localqueue", QUEUE, "--wait=false")
    for kind in ("clusterqueue", "resourceflavor", "workloadpriorityclass"):
        kubectl.run("delete", kind, name, "--wait=false")


@dataclass
class PodObserver:
    """Observations of the queue's pods. `most`: maximum number of GPUs of admitted pods that had not ended."""

    most: int = 0
    gated: set[str] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)
    workflow_of: dict[str, str] = field(default_factory=dict)
    _gpus: dict[str, int] = field(default_factory=dict)

    def observe(self, change: str, pod: Document) -> None:
        name = pod["metadata"]["name"]
        self.workflow_of[name] = pod["metadata"]["labels"].get(LABEL_WORKFLOW, "")
        if pod["spec"].get("schedulingGates"):
            self.gated.add(name)
        if "deletionTimestamp" in pod["metadata"] and pod["status"].get("phase") == "Running" and name not in self.stopped:
            self.stopped.append(name)
        is_active = change != "DELETED" and not pod["spec"].get("schedulingGates") and pod["status"].get("phase") not in TERMINAL
        self._gpus[name] = gpus(pod) if is_active else 0
        self.most = max(self.most, sum(self._gpus.values()))


def gpus(pod: Document) -> int:
    limits_of_containers = [(container.get("resources") or {}).get("limits") or {} for container in pod["spec"]["containers"]]
    return sum(int(limits.get("nvidia.com/gpu", 0)) for limits in limits_of_containers)


@pytest.fixture
def observer(kubectl: Kubectl, queue: Queue) -> Iterator[PodObserver]:  # noqa: ARG001
    """Observe the queue's pods with a watch while a test runs."""
    cluster, seen, stop = connect(kubectl.namespace), PodObserver(), threading.Event()

    def follow() -> None:
        version = cluster.list("pods").resource_version
        while not stop.is_set():
            try:
                for change, pod in cluster.watch("pods", version, timeout_seconds=5):
                    version = pod["metadata"]["resourceVersion"]
                    if change != "BOOKMARK" and pod["metadata"].get("labels", {}).get(LABEL_QUEUE) == QUEUE:
                        seen.observe(change, pod)
            except ClusterError:
                continue

    thread = threading.Thread(target=follow)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def queued(study: SmallStudy, kubectl: Kubectl, index: int) -> Document:
    """Return the Workflow of the first train task of a chain, with a GPU from the queue."""
    unit = study.train_units()[index]
    execution = study.execution.model_copy(update={"queue": QUEUE, "gpus_per_pod": {"0.01M": 1}})
    body = study.workflow(replace(unit, tasks=unit.tasks[:1]), kubectl.namespace, execution=execution, checkpoint_seconds=1)
    for template in body["spec"]["templates"]:
        if "container" in template:
            arguments = template["container"]["args"]
            arguments[arguments.index("--gpus=1")] = "--gpus=0"
    return body


def urgent_pod(kubectl: Kubectl, queue: Queue, image: str, *, name: str = "urgent", seconds: int = 3) -> Document:
    """Return a pod of another user that holds one GPU with a higher priority for `seconds`."""
    labels = {LABEL_QUEUE: QUEUE, "kueue.x-k8s.io/priority-class": queue.urgent}
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", str(seconds)],
        "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}},
        "securityContext": rights,
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": user, "containers": [container]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": kubectl.namespace, "labels": labels},
        "spec": spec,
    }


def test_quota_is_never_exceeded_and_preempted_task_resumes(
    prepared: SmallStudy, root: str, queue: Queue, observer: PodObserver, kubectl: Kubectl, trainer_image: str, tmp_path: Path
) -> None:
    study = make_study(tmp_path, "queued", root, seeds=SEEDS, tokens=TOKENS, image=trainer_image)
    assert set(prepared.results()) <= set(study.results()) | set(prepared.opened.plan.tasks), "both studies use the same store"
    bodies = [queued(study, kubectl, index) for index in range(len(SEEDS))]
    digests = [study.train_units()[index].tasks[0] for index in range(len(SEEDS))]
    works = [f"trajectories/{study.opened.plan.tasks[digest].work}" for digest in digests]
    kubectl.create(*bodies)

    eventually(lambda: sum(bool(list_checkpoints(study.store, work)) for work in works) == QUOTA, "both admitted tasks have a checkpoint")
    kubectl.create(urgent_pod(kubectl, queue, trainer_image))
    finished = [kubectl.finished(body["metadata"]["name"], TIMEOUT) for body in bodies]

    assert [finished_workflow["status"]["phase"] for finished_workflow in finished] == ["Succeeded"] * len(SEEDS)
    assert observer.most == QUOTA
    (victim,) = observer.stopped
    (at,) = [index for index, body in enumerate(bodies) if body["metadata"]["name"] == observer.workflow_of[victim]]
    assert [exit_code(attempt) for attempt in attempts(finished[at])] == [str(int(ExitCode.STOPPED)), "0"]
    pods = {pod for pod, workflow in observer.workflow_of.items() if workflow == bodies[at]["metadata"]["name"]}
    assert len(pods) == 2
    assert pods <= observer.gated, "the second attempt was queued like the first"
    assert history(study.store, works[at])[1].from_tokens > 0, "it resumed from a checkpoint"
    assert study.results()[digests[at]] == undisturbed(study, digests[at], tmp_path / "here")


def undisturbed(study: SmallStudy, digest: str, folder: Path) -> Document:
    """Return the results of a local run of a train task, from the study's own prepared sources."""
    here = open_store(str(folder))
    for needed in (digest, *(task.digest for task in study.opened.plan.tasks.values() if task.kind == TaskKind.PREPARE)):
        is_prepared = needed != digest
        keys = [stat.key for stat in study.store.objects.list(f"tasks/{needed}")] if is_prepared else [f"tasks/{needed}/task.json"]
        for key in (*keys, *([f"done/{needed}"] if is_prepared else [])):
            here.objects.put(key, study.store.objects.get(key))
    subprocess.run([sys.executable, "-m", "trainer", digest, "--store", str(folder)], check=True, stdout=subprocess.DEVNULL)
    record = read_record(here, digest)
    assert record is not None
    return dict(record.results)


def test_pod_without_a_queue_is_not_managed_by_kueue(prepared: SmallStudy, queue: Queue, kubectl: Kubectl) -> None:
    """Kueue ignores pods without a queue label, also in the namespace of a queue."""
    assert queue.urgent
    unit = prepared.train_units()[0]
    body = prepared.workflow(replace(unit, tasks=unit.tasks[:1]), kubectl.namespace, run_number=77)
    kubectl.create(body)
    finished_workflow = kubectl.finished(body["metadata"]["name"])
    assert finished_workflow["status"]["phase"] == "Succeeded"
    assert not [load for load in kubectl.json("get", "workloads")["items"] if body["metadata"]["name"] in load["metadata"]["name"]]


def test_multi_node_training_starts_only_with_quota_for_all_pods(
    prepared: SmallStudy, root: str, queue: Queue, kubectl: Kubectl, trainer_image: str, tmp_path: Path
) -> None:
    """Two pods of one GPU each, while another pod holds one of two GPUs: both start only when both fit."""
    if "jobsets.jobset.x-k8s.io" not in kubectl.run("get", "crd", "-o", "name"):
        pytest.skip("JobSet is not installed on this cluster")
    assert prepared.results()
    study = make_study(tmp_path, "gang", root, seeds=(14,), tokens="64K", image=trainer_image)
    execution = on_the_oldest_node(study.execution, kubectl).model_copy(update={"queue": QUEUE, "gpus_per_pod": {"0.01M": 1}})
    text = json.dumps(multi_node_workflow(study, kubectl.namespace, execution))
    assert "--gpus=1" in text
    body: Document = json.loads(text.replace("--gpus=1", "--gpus=0"))
    kubectl.create(urgent_pod(kubectl, queue, trainer_image, name="holder", seconds=600))
    eventually(lambda: kubectl.json("get", "pod", "holder")["status"].get("phase") == "Running", "one GPU is taken")
    kubectl.create(body)
    (jobset,) = eventually(lambda: kubectl.json("get", "jobsets")["items"], "the waiter has created the JobSet")
    eventually(lambda: waits_for_quota(kubectl, jobset["metadata"]["name"]), "Kueue has rejected it for now")
    assert not training_pods(kubectl, body["metadata"]["name"])
    kubectl.run("delete", "pod", "holder", "--wait=false", "--grace-period=1")
    finished_workflow = kubectl.finished(body["metadata"]["name"], TIMEOUT)
    assert finished_workflow["status"]["phase"] == "Succeeded", finished_workflow["status"].get("message")
    assert set(study.train_units()[0].tasks) <= study.results().keys()


def waits_for_quota(kubectl: Kubectl, jobset: str) -> bool:
    """Return whether a JobSet's Workload has the condition QuotaReserved=False."""
    for load in kubectl.json("get", "workloads")["items"]:
        if any(owner["name"] == jobset for owner in load["metadata"].get("ownerReferences") or ()):
            conditions = load.get("status", {}).get("conditions") or ()
            return any(entry["type"] == "QuotaReserved" and entry["status"] == "False" for entry in conditions)
    return False
