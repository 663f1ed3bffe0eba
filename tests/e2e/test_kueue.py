"""Training pods in a queue of Kueue: its quota is never passed, and a task that is preempted goes on from its checkpoint.

GPUs of the test cluster are only counted and there is none inside: the pods ask Kubernetes for them, and the trainer is told to use none.
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
from orchestrator.contract.vocabulary import LABEL_QUEUE, ExitCode, TaskKind
from orchestrator.errors import ClusterError
from orchestrator.reconcile.observe import LABEL_WORKFLOW, TERMINAL
from orchestrator.store import open_store
from orchestrator.store.checkpoints import kept
from orchestrator.store.leases import history
from orchestrator.store.records import read_record
from tests.e2e.kubectl import Document, Kubectl, attempts, eventually, exit_code
from tests.e2e.small_study import SmallStudy, make_study
from tests.e2e.test_nodes import on_the_oldest_node, over_nodes, training_pods

pytestmark = pytest.mark.cluster

QUOTA = 2
SEEDS = (11, 12, 13)
KUEUE = "kueue.x-k8s.io/v1beta1"
QUEUE = "research"
# Some ten seconds of training: long enough to be preempted in
TOKENS = "200K"
# Three pods for two places and one more, on two cores
TIME_FOR_ALL = 600


@dataclass
class Queue:
    """A local queue, and who may preempt what is in it."""

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
class Counted:
    """What a watch of the queue's pods has seen. `most`: GPUs of pods that were admitted and had not ended, at any time."""

    most: int = 0
    gated: set[str] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)
    workflow_of: dict[str, str] = field(default_factory=dict)
    _gpus: dict[str, int] = field(default_factory=dict)

    def see(self, change: str, pod: Document) -> None:
        name = pod["metadata"]["name"]
        self.workflow_of[name] = pod["metadata"]["labels"].get(LABEL_WORKFLOW, "")
        if pod["spec"].get("schedulingGates"):
            self.gated.add(name)
        if "deletionTimestamp" in pod["metadata"] and pod["status"].get("phase") == "Running" and name not in self.stopped:
            self.stopped.append(name)
        is_at_work = change != "DELETED" and not pod["spec"].get("schedulingGates") and pod["status"].get("phase") not in TERMINAL
        self._gpus[name] = gpus(pod) if is_at_work else 0
        self.most = max(self.most, sum(self._gpus.values()))


def gpus(pod: Document) -> int:
    asked = [(container.get("resources") or {}).get("limits") or {} for container in pod["spec"]["containers"]]
    return sum(int(limits.get("nvidia.com/gpu", 0)) for limits in asked)


@pytest.fixture
def counted(kubectl: Kubectl, queue: Queue) -> Iterator[Counted]:  # noqa: ARG001
    """In the order in which the API server took the changes."""
    cluster, seen, stop = connect(kubectl.namespace), Counted(), threading.Event()

    def follow() -> None:
        version = cluster.list("pods").resource_version
        while not stop.is_set():
            try:
                for change, pod in cluster.watch("pods", version, timeout_seconds=5):
                    version = pod["metadata"]["resourceVersion"]
                    if change != "BOOKMARK" and pod["metadata"].get("labels", {}).get(LABEL_QUEUE) == QUEUE:
                        seen.see(change, pod)
            except ClusterError:
                continue

    thread = threading.Thread(target=follow)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def queued(study: SmallStudy, kubectl: Kubectl, index: int) -> Document:
    """The first train task of a line of work, with a GPU from the queue."""
    unit = study.train_units()[index]
    execution = study.execution.model_copy(update={"queue": QUEUE, "gpus_per_pod": {"0.01M": 1}})
    body = study.workflow(replace(unit, tasks=unit.tasks[:1]), kubectl.namespace, execution=execution, checkpoint_seconds=1)
    for template in body["spec"]["templates"]:
        if "container" in template:
            words = template["container"]["args"]
            words[words.index("--gpus=1")] = "--gpus=0"
    return body


def urgent_pod(kubectl: Kubectl, queue: Queue, image: str, *, name: str = "urgent", seconds: int = 3) -> Document:
    """Somebody else's work of a higher priority: one GPU for a moment."""
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


def test_the_quota_is_never_passed_and_a_preempted_task_goes_on_from_its_checkpoint(
    prepared: SmallStudy, root: str, queue: Queue, counted: Counted, kubectl: Kubectl, trainer_image: str, tmp_path: Path
) -> None:
    study = make_study(tmp_path, "queued", root, seeds=SEEDS, tokens=TOKENS, image=trainer_image)
    assert set(prepared.results()) <= set(study.results()) | set(prepared.opened.plan.tasks), "one store for both"
    bodies = [queued(study, kubectl, index) for index in range(len(SEEDS))]
    digests = [study.train_units()[index].tasks[0] for index in range(len(SEEDS))]
    works = [f"trajectories/{study.opened.plan.tasks[digest].work}" for digest in digests]
    kubectl.create(*bodies)

    eventually(lambda: sum(bool(kept(study.store, work)) for work in works) == QUOTA, "both that fit have a checkpoint")
    kubectl.create(urgent_pod(kubectl, queue, trainer_image))
    overs = [kubectl.finished(body["metadata"]["name"], TIME_FOR_ALL) for body in bodies]

    assert [over["status"]["phase"] for over in overs] == ["Succeeded"] * len(SEEDS)
    assert counted.most == QUOTA
    (victim,) = counted.stopped
    (at,) = [index for index, body in enumerate(bodies) if body["metadata"]["name"] == counted.workflow_of[victim]]
    assert [exit_code(attempt) for attempt in attempts(overs[at])] == [str(int(ExitCode.STOPPED)), "0"]
    pods = {pod for pod, workflow in counted.workflow_of.items() if workflow == bodies[at]["metadata"]["name"]}
    assert len(pods) == 2
    assert pods <= counted.gated, "the second attempt queued like the first"
    assert history(study.store, works[at])[1].from_tokens > 0, "it went on from a checkpoint"
    assert study.results()[digests[at]] == undisturbed(study, digests[at], tmp_path / "here")


def undisturbed(study: SmallStudy, digest: str, folder: Path) -> Document:
    """Results of a train task as this machine has them, from the study's own prepared sources."""
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


def test_a_pod_without_the_label_waits_for_nobody(prepared: SmallStudy, queue: Queue, kubectl: Kubectl) -> None:
    """Whoever asks for no queue is none of Kueue's business, in the same namespace too."""
    assert queue.urgent
    unit = prepared.train_units()[0]
    body = prepared.workflow(replace(unit, tasks=unit.tasks[:1]), kubectl.namespace, run_number=77)
    kubectl.create(body)
    over = kubectl.finished(body["metadata"]["name"])
    assert over["status"]["phase"] == "Succeeded"
    assert not [load for load in kubectl.json("get", "workloads")["items"] if body["metadata"]["name"] in load["metadata"]["name"]]


def test_training_over_nodes_waits_until_there_is_room_for_all_of_it(
    prepared: SmallStudy, root: str, queue: Queue, kubectl: Kubectl, trainer_image: str, tmp_path: Path
) -> None:
    """Two pods of one GPU each, while somebody holds one of two: none of them starts before both can."""
    if "jobsets.jobset.x-k8s.io" not in kubectl.run("get", "crd", "-o", "name"):
        pytest.skip("JobSet is not installed on this cluster")
    assert prepared.results()
    study = make_study(tmp_path, "gang", root, seeds=(14,), tokens="64K", image=trainer_image)
    execution = on_the_oldest_node(study.execution, kubectl).model_copy(update={"queue": QUEUE, "gpus_per_pod": {"0.01M": 1}})
    told = json.dumps(over_nodes(study, kubectl.namespace, execution))
    assert "--gpus=1" in told
    body: Document = json.loads(told.replace("--gpus=1", "--gpus=0"))
    kubectl.create(urgent_pod(kubectl, queue, trainer_image, name="holder", seconds=600))
    eventually(lambda: kubectl.json("get", "pod", "holder")["status"].get("phase") == "Running", "one GPU is taken")
    kubectl.create(body)
    (jobset,) = eventually(lambda: kubectl.json("get", "jobsets")["items"], "the waiter has asked for its pods")
    eventually(lambda: waits(kubectl, jobset["metadata"]["name"]), "Kueue has looked at it")
    assert not training_pods(kubectl, body["metadata"]["name"])
    kubectl.run("delete", "pod", "holder", "--wait=false", "--grace-period=1")
    over = kubectl.finished(body["metadata"]["name"], TIME_FOR_ALL)
    assert over["status"]["phase"] == "Succeeded", over["status"].get("message")
    assert set(study.train_units()[0].tasks) <= study.results().keys()


def waits(kubectl: Kubectl, jobset: str) -> bool:
    """Whether Kueue says of a JobSet that its quota is not there."""
    for load in kubectl.json("get", "workloads")["items"]:
        if any(owner["name"] == jobset for owner in load["metadata"].get("ownerReferences") or ()):
            conditions = load.get("status", {}).get("conditions") or ()
            return any(entry["type"] == "QuotaReserved" and entry["status"] == "False" for entry in conditions)
    return False
