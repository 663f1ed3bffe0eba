"""Measure the latency that the controller adds to Argo: from `kubectl apply` to the first step, and from one pod's end to the next start.

    python tests/bench/bench_latency.py [--simulated]

Needs the cluster of KUBECONFIG, a store and the trainer image, like tests/e2e. A study of three train tasks and four evaluations (a stable
trajectory that a leaf and a cooldown continue: three Workflows) alternates with one Workflow of the same DAG with empty steps, the same
image and the same pods, so that both run under the same load. Times are taken from a watch of pods: a container has started when the API
first reports it. BENCH_ROUNDS is the number of rounds, 3 by default.

`--simulated`: use nodes simulated by kwok, where a container starts half a second after its pod is bound and ends five seconds later. This
measures only the API server, scheduler, Argo and controller, and depends less on the load of the machine.
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
from orchestrator.reconcile.observed import LABEL_WORKFLOW  # noqa: E402
from orchestrator.study.opening import open_study  # noqa: E402
from orchestrator.workflow import short  # noqa: E402
from tests.e2e.installation import install, uninstall  # noqa: E402
from tests.e2e.kubectl import Document, Kubectl, eventually  # noqa: E402
from tests.e2e.small_study import STUDY, SmallStudy, open_root, write_corpus  # noqa: E402
from tests.e2e.test_kwok import Trainers, node, simulated_trainers  # noqa: E402

COOLDOWN = "    - {name: cooldown, tokens: 16K, mixture: {codePercent: 20, text: {english: 100}, code: {python: 100}}}\n"
TIMEOUT = 900


@dataclass
class Container:
    """Times at which the API first reported the start and the end of a task's container, in seconds since the epoch."""

    workflow: str
    started: float | None = None
    ended: float | None = None


@dataclass
class Observations:
    """Observed containers and pods by (Workflow, short digest), and the times at which Workflows were first seen."""

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


def observe(namespace: str) -> Observations:
    """Observe the pods and Workflows of a namespace from now on, in threads."""
    observations = Observations()

    def follow(kind: str) -> None:
        cluster = connect(namespace)
        version = cluster.list(kind).resource_version  # type: ignore[arg-type]
        while True:
            for change, body in cluster.watch(kind, version):  # type: ignore[arg-type]
                version = body["metadata"]["resourceVersion"]
                if change in ("ADDED", "MODIFIED"):
                    (observations.pod if kind == "pods" else observations.workflow)(body)

    for kind in ("pods", "workflows"):
        threading.Thread(target=follow, args=(kind,), daemon=True).start()
    return observations


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
    """Return a study whose plan is not frozen yet and whose fingerprints are declared, so that no pod computes them.

    `pool`: the pool of simulated nodes, "" for real nodes.
    """
    text = STUDY.format(
        name=name, store=f"{root}/store", corpus=f"{root}/corpus", seeds=[seed], tokens="32K",
        image=os.environ.get("E2E_TRAINER_IMAGE", "localhost/trainer:dev"), secret="scaling-study-store",
    ).replace("  evaluation: {after: [pretrain]", f"{COOLDOWN}  evaluation: {{after: [pretrain, cooldown]")  # fmt: skip
    if pool:
        scheduling = f"nodeSelector: {{pool: {pool}}}, tolerations: [{{key: kwok.x-k8s.io/node, operator: Exists}}]"
        text = text.replace("graceSeconds: 30", f"graceSeconds: 30, {scheduling}")
    file = folder / f"{name}.yaml"
    file.write_text(text)
    for source in open_study(file).plan.sources:
        text = text.replace(f"{{name: {source.name}, group", f"{{name: {source.name}, fingerprint: {source.fingerprint}, group")
    file.write_text(text)
    return SmallStudy(file, open_study(file))


def needs(plan: Plan) -> dict[str, list[str]]:
    """Return the train and evaluate tasks, each with the ones it needs."""
    kinds = (TaskKind.TRAIN, TaskKind.EVALUATE)
    digests = [digest for digest, task in plan.tasks.items() if task.kind in kinds]
    return {digest: [need for need in plan.tasks[digest].needs if need in digests] for digest in digests}


def argo_alone(made: SmallStudy, namespace: str) -> Document:
    """Return one Workflow with the study's train and evaluate tasks as empty steps, which the controller ignores."""
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
    """Return the seconds from the end of a needed task to the start of a task, within and between Workflows."""
    found: dict[str, list[float]] = {"within a Workflow": [], "between Workflows": []}
    for digest, before in needs(plan).items():
        if before:
            own, parent = seen[short(digest)], seen[short(before[0])]
            assert own.started is not None
            assert parent.ended is not None
            found["within a Workflow" if own.workflow == parent.workflow else "between Workflows"].append(own.started - parent.ended)
    return found


def of_workflows(observations: Observations, made: SmallStudy, alone: bool) -> dict[str, Container]:
    name = f"alone-{made.opened.study.name}"
    wanted = set(map(short, needs(made.opened.plan)))
    return {key[1]: seen for key, seen in observations.containers.items() if key[1] in wanted and (key[0] == name) == alone}


def steps_of(kubectl: Kubectl, pod: str) -> list[float]:
    """Return the times of the progress lines in a pod's log, by the clock of its node."""
    lines = [line.partition(" ") for line in kubectl.run("logs", pod, "-c", "main", "--timestamps").splitlines()]
    return [datetime.fromisoformat(f"{stamp[:26]}+00:00").timestamp() for stamp, _, text in lines if " / " in text]


def run_simulated(kubectl: Kubectl, observations: Observations, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Run on simulated nodes; records are written shortly before the pods end, as by trainers."""
    plan, name = made.opened.plan, made.opened.study.name
    trainers = Trainers(made.store, plan, name, after=4.2)
    with simulated_trainers(kubectl.namespace, trainers):
        kubectl.run("apply", "-f", str(made.file))
        applied = time.time()
        eventually(lambda: kubectl.json("get", "sstudy", name).get("status", {}).get("phase") == "Succeeded", f"{name} is done", TIMEOUT)
        finished = time.time()
    seen = of_workflows(observations, made, alone=False)
    first = seen[next(short(digest) for digest, before in needs(plan).items() if not before)]
    assert first.started is not None
    steps = {
        "apply -> Workflow": observations.workflows[first.workflow] - applied,
        "apply -> container": first.started - applied,
        "all": finished - applied,
    }
    return steps, gaps(plan, seen)


def run_controller(kubectl: Kubectl, observations: Observations, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    name = made.opened.study.name
    before = time.time()
    kubectl.run("apply", "-f", str(made.file))
    applied = time.time()
    first = next(digest for digest, need in needs(made.opened.plan).items() if not need)

    def pod() -> str | None:
        return next((pod for (_, digest), pod in observations.pods.items() if digest == short(first)), None)

    at = eventually(pod, "the first pod", TIMEOUT)
    workflow = next(flow for (flow, digest) in observations.pods if digest == short(first))
    lines = eventually(lambda: steps_of(kubectl, at) if has_started(observations, first) else [], "a step", TIMEOUT)
    eventually(lambda: kubectl.json("get", "sstudy", name).get("status", {}).get("phase") == "Succeeded", f"{name} is done", TIMEOUT)
    finished = time.time()
    seen = of_workflows(observations, made, alone=False)
    started = seen[short(first)].started or 0.0
    steps = {
        "apply takes": applied - before,
        "apply -> Workflow": observations.workflows[workflow] - applied,
        "Workflow -> container": started - observations.workflows[workflow],
        "container -> first step": lines[0] - started,
        "apply -> container": started - applied,
        "apply -> first step": lines[0] - applied,
        "all": finished - applied,
    }
    return steps, gaps(made.opened.plan, seen)


def has_started(observations: Observations, digest: str) -> bool:
    return any(seen.started is not None for key, seen in observations.containers.items() if key[1] == short(digest))


def run_alone(kubectl: Kubectl, observations: Observations, made: SmallStudy) -> tuple[dict[str, float], dict[str, list[float]]]:
    body = argo_alone(made, kubectl.namespace)
    kubectl.create(body)
    created = time.time()
    finished = kubectl.finished(body["metadata"]["name"], TIMEOUT)
    assert finished["status"]["phase"] == "Succeeded", finished["status"]
    seen = of_workflows(observations, made, alone=True)
    starts = [container.started for container in seen.values() if container.started is not None]
    return {"apply -> container": min(starts) - created, "all": time.time() - created}, gaps(made.opened.plan, seen)


def formatted(values: list[float]) -> str:
    """Format the median, minimum, maximum and number of values."""
    return f"{statistics.median(values):5.2f} s ({min(values):.2f} to {max(values):.2f}, {len(values)})" if values else "-"


def main() -> None:
    namespace = f"latency-{uuid.uuid4().hex[:6]}"
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/latency/{uuid.uuid4().hex[:8]}"
    rounds, is_simulated = int(os.environ.get("BENCH_ROUNDS", "3")), "--simulated" in sys.argv[1:]
    nodes = [node(f"{namespace}-{number}", namespace) for number in range(2)]
    write_corpus(open_root(root))
    kubectl = install(namespace, controller=False)
    times: dict[str, dict[str, list[float]]] = {"controller": {}, "Argo alone": {}}
    try:
        if is_simulated:
            kubectl.apply(*nodes)
            kubectl.run("wait", "--for=condition=Ready", *(f"node/{body['metadata']['name']}" for body in nodes), "--timeout=60s")
        with tempfile.TemporaryDirectory() as folder, controller(namespace):
            observations = observe(namespace)
            for number in range(rounds + 1):
                made = study(Path(folder), f"round-{number}", root, number + 1, namespace if is_simulated else "")
                for variant, run in (("controller", run_simulated if is_simulated else run_controller), ("Argo alone", run_alone)):
                    steps, between = run(kubectl, observations, made)
                    # in the first round, the corpus is prepared before training starts
                    counted = {step: [value] for step, value in steps.items()} if number else {}
                    for what, values in {**counted, **between}.items():
                        times[variant].setdefault(what, []).extend(values)
                print_times(f"after round {number} of {rounds}, load {os.getloadavg()[0]:.1f}", times)
    finally:
        uninstall(namespace)
        if is_simulated:
            kubectl.run("delete", "node", *(body["metadata"]["name"] for body in nodes), "--wait=false")


def print_times(when: str, times: dict[str, dict[str, list[float]]]) -> None:
    print(when)
    for variant, found in times.items():
        for what, values in found.items():
            print(f"  {variant:10}  {what:24} {formatted(values)}", flush=True)


if __name__ == "__main__":
    main()
