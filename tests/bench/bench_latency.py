"""Prints what the controller adds to Argo's own delays: from `kubectl apply` to the first step, and from the end of a pod to the next one.

    python tests/bench/bench_latency.py [--played]

Needs the cluster that KUBECONFIG names, a store and the trainer's image, as tests/e2e do. A study of three train tasks and four evaluations
(one stable trajectory from which a leaf and a cooldown go on: three Workflows) and one Workflow with the same DAG of empty steps, same
image, same pod, run in turns, so that both meet the same load. Seen from outside, by a watch of pods: a container starts when the API says
so first. BENCH_ROUNDS sets how often (3 unless given).

`--played`: the same on nodes that kwok plays, where a container starts half a second after its pod is bound and ends five seconds later,
so that nothing but API server, scheduler, Argo and controller is measured, and a machine that is busy training does not matter as much.
"""

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.cluster.kubernetes_api import connect  # noqa: E402
from orchestrator.contract.plan import Plan  # noqa: E402
from orchestrator.contract.vocabulary import ANNOTATION_TASKS, LABEL_DIGEST, LABEL_MANAGED_BY, LABEL_STUDY, TaskKind  # noqa: E402
from orchestrator.reconcile.observe import LABEL_WORKFLOW  # noqa: E402
from orchestrator.study.opening import open_study  # noqa: E402
from orchestrator.workflow import short  # noqa: E402
from tests.e2e.installation import install, uninstall  # noqa: E402
from tests.e2e.kubectl import Document, Kubectl, eventually  # noqa: E402
from tests.e2e.small_study import STUDY, SmallStudy, open_root, write_corpus  # noqa: E402
from tests.e2e.test_kwok import Trainers, at_work, node  # noqa: E402

COOLDOWN = "    - {name: cooldown, tokens: 16K, mixture: {codePercent: 20, text: {english: 100}, code: {python: 100}}}\n"
TIME_FOR_ONE = 900


@dataclass
class Container:
    """When the API first said that a task's container runs, and that it has ended; seconds since the epoch."""

    workflow: str
    started: float | None = None
    ended: float | None = None


@dataclass
class Watched:
    """Containers by (Workflow, short digest), and when Workflows were first seen."""

    containers: dict[tuple[str, str], Container] = field(default_factory=dict)
    pods: dict[tuple[str, str], str] = field(default_factory=dict)
    workflows: dict[str, float] = field(default_factory=dict)

    def pod(self, body: Document) -> None:
        labels, now = body["metadata"].get("labels") or {}, time.time()
        if LABEL_DIGEST not in labels:
            return
        key = labels[LABEL_WORKFLOW], labels[LABEL_DIGEST]
        seen = self.containers.setdefault(key, Container(key[0]))
        self.pods[key] = body["metadata"]["name"]
        statuses = body.get("status", {}).get("containerStatuses") or ()
        state: Document = next((status["state"] for status in statuses if status["name"] == "main"), {})
        if seen.started is None and ("running" in state or "terminated" in state):
            seen.started = now
        if seen.ended is None and "terminated" in state:
            seen.ended = now

    def workflow(self, body: Document) -> None:
        self.workflows.setdefault(body["metadata"]["name"], time.time())


def watching(namespace: str) -> Watched:
    """What happens in the namespace from now on, seen by threads of their own."""
    watched = Watched()

    def follow(kind: str) -> None:
        cluster = connect(namespace)
        version = cluster.list(kind).resource_version  # type: ignore[arg-type]
        while True:
            for change, body in cluster.watch(kind, version):  # type: ignore[arg-type]
                version = body["metadata"]["resourceVersion"]
                if change in ("ADDED", "MODIFIED"):
                    (watched.pod if kind == "pods" else watched.workflow)(body)

    for kind in ("pods", "workflows"):
        threading.Thread(target=follow, args=(kind,), daemon=True).start()
    return watched


@contextmanager
def controller(namespace: str) -> Iterator[None]:
    command = [sys.executable, "-m", "orchestrator.controller", "--namespace", namespace, "--alone", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def study(folder: Path, name: str, root: str, seed: int, pool: str) -> SmallStudy:
    """Its plan is not frozen: that is the controller's to do. Files are declared, so that no pod must look at them.

    `pool`: of played nodes, "" for real ones.
    """
    text = STUDY.format(
        name=name, store=f"{root}/store", corpus=f"{root}/corpus", seeds=[seed], tokens="32K",
        image=os.environ.get("E2E_TRAINER_IMAGE", "localhost/trainer:dev"), secret="scaling-study-store",
    ).replace("  evaluation: {after: [pretrain]", f"{COOLDOWN}  evaluation: {{after: [pretrain, cooldown]")  # fmt: skip
    if pool:
        placed = f"nodeSelector: {{pool: {pool}}}, tolerations: [{{key: kwok.x-k8s.io/node, operator: Exists}}]"
        text = text.replace("graceSeconds: 30", f"graceSeconds: 30, {placed}")
    file = folder / f"{name}.yaml"
    file.write_text(text)
    for source in open_study(file).plan.sources:
        text = text.replace(f"{{name: {source.name}, group", f"{{name: {source.name}, fingerprint: {source.fingerprint}, group")
    file.write_text(text)
    return SmallStudy(file, open_study(file))


def needs(plan: Plan) -> dict[str, list[str]]:
    """Train and evaluate tasks, and which of them each comes after."""
    kinds = (TaskKind.TRAIN, TaskKind.EVALUATE)
    digests = [digest for digest, task in plan.tasks.items() if task.kind in kinds]
    return {digest: [need for need in plan.tasks[digest].needs if need in digests] for digest in digests}


def argo_alone(made: SmallStudy, namespace: str) -> Document:
    """One Workflow with all of the study's train and evaluate tasks as empty steps, which nobody of ours looks at."""
    body = made.workflow(made.train_units()[-1], namespace)
    train = next(template for template in body["spec"]["templates"] if template["name"] == "train")
    train["container"] |= {"command": ["true"], "args": []}
    (dag, first) = body["spec"]["templates"][0], copy.deepcopy(body["spec"]["templates"][0]["dag"]["tasks"][0])
    dag["dag"]["tasks"] = []
    for digest, before in needs(made.opened.plan).items():
        parameters = [{"name": "digest", "value": digest}, {"name": "short", "value": short(digest)}]
        task = first | {"name": f"t-{short(digest)}", "template": "train", "arguments": {"parameters": parameters}}
        task["dependencies"] = [f"t-{short(need)}" for need in before]
        dag["dag"]["tasks"].append(task)
    body["spec"]["templates"] = [dag, train]
    body["metadata"]["name"] = f"alone-{made.opened.study.name}"
    body["metadata"]["annotations"][ANNOTATION_TASKS] = "[]"
    for labels in (body["metadata"]["labels"], body["spec"]["podMetadata"]["labels"]):
        labels[LABEL_STUDY] = "alone"
        labels.pop(LABEL_MANAGED_BY, None)
    return body


def gaps(plan: Plan, seen: dict[str, Container]) -> dict[str, list[float]]:
    """Seconds from the end of what a task comes after to the start of its own container: in the same Workflow, and in another."""
    found: dict[str, list[float]] = {"within a Workflow": [], "between Workflows": []}
    for digest, before in needs(plan).items():
        if before:
            own, parent = seen[short(digest)], seen[short(before[0])]
            assert own.started is not None
            assert parent.ended is not None
            found["within a Workflow" if own.workflow == parent.workflow else "between Workflows"].append(own.started - parent.ended)
    return found


def of_workflows(watched: Watched, made: SmallStudy, alone: bool) -> dict[str, Container]:
    name = f"alone-{made.opened.study.name}"
    wanted = set(map(short, needs(made.opened.plan)))
    return {key[1]: seen for key, seen in watched.containers.items() if key[1] in wanted and (key[0] == name) == alone}


def steps_of(kubectl: Kubectl, pod: str) -> list[float]:
    """When the trainer in a pod told of its progress, as its node has it."""
    lines = [line.partition(" ") for line in kubectl.run("logs", pod, "-c", "main", "--timestamps").splitlines()]
    return [datetime.fromisoformat(f"{stamp[:26]}+00:00").timestamp() for stamp, _, text in lines if " / " in text]


def run_played(kubectl: Kubectl, watched: Watched, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Records are left when pods are about to end, as trainers do."""
    plan, name = made.opened.plan, made.opened.study.name
    trainers = Trainers(made.store, plan, name, after=4.2)
    with at_work(kubectl.namespace, trainers):
        kubectl.run("apply", "-f", str(made.file))
        applied = time.time()
        eventually(
            lambda: kubectl.json("get", "sstudy", name).get("status", {}).get("phase") == "Succeeded", f"{name} is done", TIME_FOR_ONE
        )
        over = time.time()
    seen = of_workflows(watched, made, alone=False)
    first = seen[next(short(digest) for digest, before in needs(plan).items() if not before)]
    assert first.started is not None
    steps = {
        "apply -> Workflow": watched.workflows[first.workflow] - applied,
        "apply -> container": first.started - applied,
        "all": over - applied,
    }
    return steps, gaps(plan, seen)


def run_ours(kubectl: Kubectl, watched: Watched, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    name = made.opened.study.name
    before = time.time()
    kubectl.run("apply", "-f", str(made.file))
    applied = time.time()
    first = next(digest for digest, need in needs(made.opened.plan).items() if not need)

    def pod() -> str | None:
        return next((pod for (_, digest), pod in watched.pods.items() if digest == short(first)), None)

    at = eventually(pod, "the first pod", TIME_FOR_ONE)
    workflow = next(flow for (flow, digest) in watched.pods if digest == short(first))
    lines = eventually(lambda: steps_of(kubectl, at) if has_started(watched, first) else [], "a step", TIME_FOR_ONE)
    eventually(lambda: kubectl.json("get", "sstudy", name).get("status", {}).get("phase") == "Succeeded", f"{name} is done", TIME_FOR_ONE)
    over = time.time()
    seen = of_workflows(watched, made, alone=False)
    started = seen[short(first)].started or 0.0
    steps = {
        "apply takes": applied - before,
        "apply -> Workflow": watched.workflows[workflow] - applied,
        "Workflow -> container": started - watched.workflows[workflow],
        "container -> first step": lines[0] - started,
        "apply -> container": started - applied,
        "apply -> first step": lines[0] - applied,
        "all": over - applied,
    }
    return steps, gaps(made.opened.plan, seen)


def has_started(watched: Watched, digest: str) -> bool:
    return any(seen.started is not None for key, seen in watched.containers.items() if key[1] == short(digest))


def run_alone(kubectl: Kubectl, watched: Watched, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    body = argo_alone(made, kubectl.namespace)
    kubectl.create(body)
    created = time.time()
    over = kubectl.finished(body["metadata"]["name"], TIME_FOR_ONE)
    assert over["status"]["phase"] == "Succeeded", over["status"]
    seen = of_workflows(watched, made, alone=True)
    starts = [container.started for container in seen.values() if container.started is not None]
    return {"apply -> container": min(starts) - created, "all": time.time() - created}, gaps(made.opened.plan, seen)


def told(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):5.2f} s ({min(values):.2f} to {max(values):.2f}, {len(values)})" if values else "-"


def main() -> None:
    namespace = f"latency-{uuid.uuid4().hex[:6]}"
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/latency/{uuid.uuid4().hex[:8]}"
    rounds, played = int(os.environ.get("BENCH_ROUNDS", "3")), "--played" in sys.argv[1:]
    nodes = [node(f"{namespace}-{number}", namespace) for number in range(2)]
    write_corpus(open_root(root))
    kubectl = install(namespace, controller=False)
    times: dict[str, dict[str, list[float]]] = {"ours": {}, "Argo alone": {}}
    try:
        if played:
            kubectl.apply(*nodes)
            kubectl.run("wait", "--for=condition=Ready", *(f"node/{body['metadata']['name']}" for body in nodes), "--timeout=60s")
        with tempfile.TemporaryDirectory() as folder, controller(namespace):
            watched = watching(namespace)
            for number in range(rounds + 1):
                made = study(Path(folder), f"round-{number}", root, number + 1, namespace if played else "")
                for who, run in (("ours", run_played if played else run_ours), ("Argo alone", run_alone)):
                    steps, between = run(kubectl, watched, made)
                    # in the first round the corpus is prepared before anything can be trained
                    counted = {step: [value] for step, value in steps.items()} if number else {}
                    for what, values in {**counted, **between}.items():
                        times[who].setdefault(what, []).extend(values)
                tell(f"after round {number} of {rounds}, load {os.getloadavg()[0]:.1f}", times)
    finally:
        uninstall(namespace)
        if played:
            kubectl.run("delete", "node", *(body["metadata"]["name"] for body in nodes), "--wait=false")


def tell(when: str, times: dict[str, dict[str, list[float]]]) -> None:
    print(when)
    for who, found in times.items():
        for what, values in found.items():
            print(f"  {who:10}  {what:24} {told(values)}", flush=True)


if __name__ == "__main__":
    main()
