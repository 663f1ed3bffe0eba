"""Helpers of the tests of the account: a study that holds GPUs in a namespace with a cap, and what may happen to it."""

from typing import Any

from orchestrator.contract.vocabulary import ACCOUNT_NAME
from orchestrator.controller.loop import Loop
from orchestrator.reconcile.account import Account
from tests.controller.scenarios import SMALL
from tests.controller.simulated_cluster import SimulatedCluster

CAP_HOURS = 0.2
GPUS = 8
OTHER_STORE = "memory://other"


def account_of(simulated: SimulatedCluster) -> Account:
    body = simulated.cluster.get("gpuaccounts", ACCOUNT_NAME)
    return Account.from_status((body or {}).get("status") or {})


def running_on_gpus(gpus: int = GPUS, cap: float = CAP_HOURS, **changes: Any) -> tuple[SimulatedCluster, Loop]:
    """A study with a running pod in a namespace with a cap."""
    simulated = SimulatedCluster(gpus=gpus)
    simulated.open_apart(OTHER_STORE)
    simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": str(cap), "images": "trainer:*"}
    loop = simulated.controller()
    simulated.apply(**SMALL | changes)
    simulated.step(loop)
    simulated.start_pods()
    return simulated, loop


def spend(simulated: SimulatedCluster, loop: Loop, seconds: float = 600) -> None:
    """Let the running pods run for some time, and the controller bill it."""
    simulated.clock.advance(seconds)
    simulated.step(loop)


def all_stopped(simulated: SimulatedCluster) -> bool:
    return all(body["spec"].get("shutdown") == "Stop" for body in simulated.workflows("", "Running"))


def put_deletion(simulated: SimulatedCluster, name: str = "mine") -> None:
    """Delete a study that has a finalizer: the object stays."""
    body = simulated.cluster.get("scalingstudies", name)
    assert body is not None
    body["metadata"] |= {"finalizers": ["example.com/keep"], "deletionTimestamp": "2030-01-01T00:00:00Z"}
    simulated.cluster.put("scalingstudies", body)


REFUSED_EDITS: dict[str, dict[str, Any]] = {
    "unknown key": {"budgett": {"gpuHours": 1}},
    "image not allowed": {"execution": {"image": "other:1"}},
    "invalid size": {"grid": {"sizes": ["460M"], "codePercent": [50], "seeds": [1]}},
}
