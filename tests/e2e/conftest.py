"""A namespace of the session on the cluster that KUBECONFIG names, under Pod Security `restricted`, with the overlay of one node.

The store is the bucket of STORE_TEST_S3, reached from here with AWS_ENDPOINT_URL and from pods with E2E_S3_ENDPOINT. E2E_NAMESPACE names
the namespace and keeps it afterwards.
"""

import json
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.installation import TRAINER_IMAGE, install, uninstall
from tests.e2e.kubectl import Kubectl
from tests.e2e.small_study import SmallStudy, make_study, open_root, write_corpus
from tests.e2e.survival import Controller, Ground, run_reference

NEEDED = ("KUBECONFIG", "STORE_TEST_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SEEDS = (1, 2, 3, 4)
# A node that is silent gives its pods up at once: Kubernetes would wait for five minutes
AT_ONCE = "operator: Exists, effect: NoExecute, tolerationSeconds: 5"
POLICY = {
    "checkpointSeconds": "3",
    "workflowsAtOnce": "8",
    "tolerations": f"[{{key: node.kubernetes.io/unreachable, {AT_ONCE}}}, {{key: node.kubernetes.io/not-ready, {AT_ONCE}}}]",
}


@pytest.fixture(scope="session")
def environment() -> None:
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        pytest.skip(f"no cluster with a store: {', '.join(missing)} not set; .ci/run shows how")


@pytest.fixture(scope="session")
def kubectl(environment: None) -> Iterator[Kubectl]:  # noqa: ARG001
    """An installation without a controller and without MLflow: whoever needs them starts them."""
    namespace = os.environ.get("E2E_NAMESPACE") or f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl = install(namespace, controller=False)
    yield kubectl
    if "E2E_NAMESPACE" not in os.environ:
        uninstall(namespace)


@pytest.fixture(scope="session")
def root(environment: None) -> str:  # noqa: ARG001
    """A place of the session's own in the bucket, with the corpus in it."""
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/e2e/{uuid.uuid4().hex[:12]}"
    write_corpus(open_root(root))
    return root


@pytest.fixture(scope="session")
def trainer_image(kubectl: Kubectl) -> str:
    """The image of the trainer, which a node has."""
    images = [image for node in kubectl.json("get", "nodes")["items"] for image in node["status"].get("images") or ()]
    found = [name for image in images for name in image.get("names") or ()]
    assert TRAINER_IMAGE in found, (
        f"no node has {TRAINER_IMAGE}: build trainer_image/Dockerfile and load it, or name another by E2E_TRAINER_IMAGE"
    )
    return TRAINER_IMAGE


@pytest.fixture(scope="session")
def study(root: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """One line of work a seed, so that each test has one to disturb."""
    return make_study(tmp_path_factory.mktemp("study"), "small", root, seeds=SEEDS, image=trainer_image)


@pytest.fixture(scope="session")
def prepared(study: SmallStudy, kubectl: Kubectl) -> SmallStudy:
    """The study when its tokenizer and sources are done: by Workflows, each submitted when what it needs is recorded."""
    waiting = [unit for unit in study.units() if unit.kind == "prepare"]
    while waiting:
        done = set(study.results())
        ready = [unit for unit in waiting if done.issuperset(unit.needs)]
        bodies = [study.workflow(unit, kubectl.namespace) for unit in ready]
        kubectl.create(*bodies)
        for body in bodies:
            over = kubectl.finished(body["metadata"]["name"])
            assert over["status"]["phase"] == "Succeeded", over["status"].get("message")
        waiting = [unit for unit in waiting if unit not in ready]
    return study


@pytest.fixture(scope="session")
def undisturbed(study: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Results of the same study as this machine has them, by digest."""
    return study.run_here(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="session")
def ground(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:  # noqa: ARG001
    """An installation for trials: checkpoints come every three seconds, so that there is always one to go on from."""
    namespace = f"e2e-survives-{uuid.uuid4().hex[:6]}"
    kubectl = install(namespace, controller=False)
    kubectl.run("patch", "configmap", "scaling-study-policy", "-p", json.dumps({"data": POLICY}))
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/e2e/{uuid.uuid4().hex[:12]}"
    write_corpus(open_root(root))
    folder = tmp_path_factory.mktemp("survives")
    nodes = sorted(kubectl.json("get", "nodes")["items"], key=lambda node: node["metadata"]["creationTimestamp"])
    yield Ground(kubectl, root, folder, run_reference(folder, f"{root}/corpus"), nodes[0]["metadata"]["name"])
    uninstall(namespace)


@pytest.fixture(scope="session")
def controller(ground: Ground) -> Iterator[Controller]:
    """Of the trials' namespace; who kills it starts it again."""
    controller = Controller(ground.kubectl.namespace, ground.folder / "controller.log").start()
    yield controller
    controller.stop()
