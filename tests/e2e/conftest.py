"""Fixtures: a namespace of the session on the cluster of KUBECONFIG, with Pod Security `restricted` and the one-node overlay.

The store is the bucket of STORE_TEST_S3; this process uses AWS_ENDPOINT_URL for it, pods use E2E_S3_ENDPOINT. If E2E_NAMESPACE is set, that
namespace is used and not deleted.
"""

import json
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.installation import TRAINER_IMAGE, install, uninstall
from tests.e2e.kubectl import Kubectl
from tests.e2e.small_study import SmallStudy, make_study, open_root, write_corpus
from tests.e2e.survival import Controller, Sandbox, run_reference

REQUIRED = ("KUBECONFIG", "STORE_TEST_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SEEDS = (1, 2, 3, 4)
# Evicts the pods of an unreachable node after seconds instead of the default of five minutes
EVICT_SOON = "operator: Exists, effect: NoExecute, tolerationSeconds: 5"
POLICY = {
    "checkpointSeconds": "3",
    "workflowsAtOnce": "8",
    "tolerations": f"[{{key: node.kubernetes.io/unreachable, {EVICT_SOON}}}, {{key: node.kubernetes.io/not-ready, {EVICT_SOON}}}]",
}


@pytest.fixture(scope="session")
def environment() -> None:
    missing = [name for name in REQUIRED if name not in os.environ]
    if missing:
        pytest.skip(f"no cluster with a store: {', '.join(missing)} not set; .ci/run shows how")


@pytest.fixture(scope="session")
def kubectl(environment: None) -> Iterator[Kubectl]:  # noqa: ARG001
    """Install without a controller and MLflow; tests that need them start them."""
    namespace = os.environ.get("E2E_NAMESPACE") or f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl = install(namespace, controller=False)
    yield kubectl
    if "E2E_NAMESPACE" not in os.environ:
        uninstall(namespace)


@pytest.fixture(scope="session")
def root(environment: None) -> str:  # noqa: ARG001
    """Return a new prefix in the bucket that contains the corpus."""
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/e2e/{uuid.uuid4().hex[:12]}"
    write_corpus(open_root(root))
    return root


@pytest.fixture(scope="session")
def trainer_image(kubectl: Kubectl) -> str:
    """Return the name of the trainer image after checking that a node has it."""
    images = [image for node in kubectl.json("get", "nodes")["items"] for image in node["status"].get("images") or ()]
    found = [name for image in images for name in image.get("names") or ()]
    assert TRAINER_IMAGE in found, (
        f"no node has {TRAINER_IMAGE}: build trainer_image/Dockerfile and load it, or name another by E2E_TRAINER_IMAGE"
    )
    return TRAINER_IMAGE


@pytest.fixture(scope="session")
def study(root: str, trainer_image: str, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """A study with one chain of train tasks per seed, so that each test can disturb its own."""
    return make_study(tmp_path_factory.mktemp("study"), "small", root, seeds=SEEDS, image=trainer_image)


@pytest.fixture(scope="session")
def prepared(study: SmallStudy, kubectl: Kubectl) -> SmallStudy:
    """The study after its prepare tasks have run as Workflows, each submitted when its needs have records."""
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
    """Results by digest of a local run of the same study."""
    return study.run_here(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="session")
def sandbox(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:  # noqa: ARG001
    """An installation for trials, with a checkpoint every three seconds, so that there is always one to resume from."""
    namespace = f"e2e-survives-{uuid.uuid4().hex[:6]}"
    kubectl = install(namespace, controller=False)
    kubectl.run("patch", "configmap", "scaling-study-policy", "-p", json.dumps({"data": POLICY}))
    root = f"{os.environ['STORE_TEST_S3'].rstrip('/')}/e2e/{uuid.uuid4().hex[:12]}"
    write_corpus(open_root(root))
    folder = tmp_path_factory.mktemp("survives")
    nodes = sorted(kubectl.json("get", "nodes")["items"], key=lambda node: node["metadata"]["creationTimestamp"])
    yield Sandbox(kubectl, root, folder, run_reference(folder, f"{root}/corpus"), nodes[0]["metadata"]["name"])
    uninstall(namespace)


@pytest.fixture(scope="session")
def controller(sandbox: Sandbox) -> Iterator[Controller]:
    """The controller of the trials' namespace. A test that kills it must start it again."""
    controller = Controller(sandbox.kubectl.namespace, sandbox.folder / "controller.log").start()
    yield controller
    controller.stop()
