"""Random histories of studies, pods and controllers: nothing is billed less than it ran, and the cap stops what exceeds it."""

import copy
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.exits import ExitCode
from orchestrator.errors import AlreadyExists, Refused
from tests.controller.accounts import GPUS, OTHER_STORE, REFUSED_EDITS, account_of, all_stopped, put_deletion
from tests.controller.scenarios import SMALL
from tests.controller.simulated_cluster import SimulatedCluster

# Seconds; at least the interval at which a trainer renews its lease
STEPS = (6, 30, 700)


class History:
    """A random sequence of events of users, pods and controllers.

    `renews`: whether trainers make progress and renew their leases. `truth`: GPU-seconds for which pods ran.
    """

    def __init__(self, seed: int, cap: float, renews: bool) -> None:
        self.random = random.Random(seed)
        self.cap = cap
        self.renews = renews
        self.simulated = SimulatedCluster(gpus=GPUS)
        self.simulated.open_apart(OTHER_STORE)
        self.simulated.cluster.configs["scaling-study-policy"] = {"gpuHours": str(cap), "images": "trainer:*"}
        self.loop = self.simulated.controller()
        self.truth = 0.0
        self.known = 0.0

    def pass_time(self, seconds: float) -> None:
        running = [pod for pod in self.simulated.cluster.list("pods").items if pod["status"]["phase"] == "Running"]
        self.truth += GPUS * seconds * len(running)
        self.simulated.clock.advance(seconds)
        if self.renews:
            self.simulated.renew_leases()

    def reconcile(self) -> None:
        self.pass_time(61)
        self.loop.relist()
        self.loop.step()
        account = account_of(self.simulated)
        assert account.billed >= self.truth, "fewer GPU-seconds were billed than pods ran"
        assert account.billed >= self.known, "the account was lowered"
        self.known = account.billed
        if account.used > self.cap * 3600:
            assert all_stopped(self.simulated), "a Workflow was not stopped although the cap is exceeded"

    def act(self, action: str) -> None:
        name = self.random.choice(("mine", "yours"))
        body = self.simulated.cluster.get("scalingstudies", name)
        if action == "create":
            changes = {"store": self.random.choice(("memory://simulated", OTHER_STORE))}
            grid = {"sizes": ["0.03M"], "codePercent": [50], "seeds": [self.random.randint(1, 2)]}
            try:
                self.simulated.apply(name, **copy.deepcopy(SMALL) | changes | {"grid": grid})
            except (AlreadyExists, Refused):
                return
        elif action == "start pods":
            self.simulated.start_pods()
        elif action == "end pods":
            self.simulated.end_pods(self.random.choice((ExitCode.DONE, ExitCode.STOPPED, 1)))
        elif action == "kill pods":
            if not self.renews:
                # a pod that leaves no trace, neither a lease nor its Workflow, must have been observed in a round
                self.reconcile()
            self.simulated.run_out_of_memory()
        elif action == "new controller":
            self.loop = self.simulated.controller()
        elif action == "pass time":
            self.pass_time(self.random.choice(STEPS))
        elif body is not None:
            self._change(action, name)

    def _change(self, action: str, name: str) -> None:
        if action == "delete":
            self.simulated.cluster.delete("scalingstudies", name)
        elif action == "finalize":
            put_deletion(self.simulated, name)
        elif action == "edit store":
            self.simulated.edit(name, store=self.random.choice(("memory://simulated", OTHER_STORE)))
        elif action == "edit refused":
            self.simulated.edit(name, **self.random.choice(list(REFUSED_EDITS.values())))
        elif action == "edit back":
            self.simulated.edit(name, budgett=None, execution={"image": "trainer:1"}, grid=SMALL["grid"])
        elif action == "pause":
            self.simulated.edit(name, paused=self.random.random() < 0.5)


ACTIONS = (
    "create", "create", "start pods", "start pods", "end pods", "kill pods", "new controller", "pass time", "delete", "finalize",
    "edit store", "edit refused", "edit back", "pause", "reconcile", "reconcile", "reconcile",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((0.01, 0.2, 5.0)), st.booleans(), st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=40))
def test_random_histories_are_billed_in_full_and_stopped_at_the_cap(seed: int, cap: float, renews: bool, actions: list[str]) -> None:
    history = History(seed, cap, renews)
    history.act("create")
    history.reconcile()
    history.act("start pods")
    for action in actions:
        if action == "reconcile":
            history.reconcile()
        else:
            history.act(action)
    history.reconcile()
