"""The account of GPU-seconds: every attempt costs the longer of its pods' time and its lease's time, whatever the order of events."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reconcile.account import MOST_ENDED_PODS, MOST_ENTRIES, Account, LeasedTime
from orchestrator.reconcile.observed import ObservedPod, ObservedWorkflow

START = datetime(2030, 1, 1, tzinfo=UTC)
STUDIES = {"mine": "uid-mine"}
SLACK = 2
"""Seconds by which the time of a pod may be rounded up: timestamps are truncated to seconds."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def pod(name: str, start: float, *, gpus: int = 1, ended: float | None = None, study: str = "mine", workflow: str = "w") -> ObservedPod:
    return ObservedPod(
        name, workflow, "digest", "Running" if ended is None else "Succeeded", store="store", uid=f"uid-{name}", host=name, node_id=name,
        study=study, gpus=gpus, gpu_start=at(start), gpu_end=None if ended is None else at(ended),
    )  # fmt: skip


def workflow(*, finished: dict[str, float], was_stopped: bool = False) -> dict[str, ObservedWorkflow]:
    ends = {name: at(seconds) for name, seconds in finished.items()}
    return {"w": ObservedWorkflow("w", "mine", 1, (), "Running", was_stopped=was_stopped, finished=ends)}


@dataclass(frozen=True)
class Attempt:
    """An attempt from `start` to `end`. `lease_seconds`: None if it took no lease. `is_observed`: whether a round saw its pod."""

    name: str
    start: int
    end: int
    gpus: int
    is_observed: bool
    lease_seconds: int | None

    @property
    def pod_time(self) -> int:
        return self.gpus * (self.end - self.start) if self.is_observed else 0

    @property
    def lease_time(self) -> int:
        return self.gpus * (self.lease_seconds or 0)

    def lease(self, now: int) -> LeasedTime | None:
        """The lease as the store shows it at `now`."""
        if self.lease_seconds is None or now < self.start:
            return None
        return LeasedTime(self.name, at(self.start), self.gpus * min(self.lease_seconds, now - self.start))


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    """Draw attempts on two tasks. A pod name is reused after the pod has ended, as if its Workflow was submitted again."""
    found: list[Attempt] = []
    for name in ("a", "b"):
        time = 0
        for _ in range(draw(st.integers(0, 4))):
            start = time + draw(st.integers(1, 300))
            end = start + draw(st.integers(1, 500))
            lease = draw(st.none() | st.integers(0, 600))
            found.append(Attempt(name, start, end, draw(st.integers(1, 8)), draw(st.booleans()), lease))
            time = max(end, start + (lease or 0))
    return found


@given(attempts(), st.lists(st.integers(1, 2500), max_size=12), st.booleans())
def test_an_attempt_costs_the_longer_of_its_pod_and_its_lease(found: list[Attempt], rounds: list[int], is_reloaded: bool) -> None:
    account, before = Account(), 0
    starts = [time for attempt in found if attempt.is_observed for time in (attempt.start, attempt.end)]
    for now in sorted({*rounds, *starts, 5000}):
        if is_reloaded:
            account = Account.from_status(account.to_status())
        seen = [
            replace(pod(attempt.name, attempt.start, gpus=attempt.gpus), uid=f"{attempt.name}-{attempt.start}")
            for attempt in found
            if attempt.is_observed and attempt.start <= now < attempt.end
        ]
        account.bill_pods(seen, {}, STUDIES, at(now))
        leases = [lease for attempt in found if (lease := attempt.lease(now)) is not None]
        account.settle(account.entry("mine", "uid-mine", "store"), leases, at(now))
        assert account.billed >= before, "the account was lowered"
        before = account.billed
    exact = sum(max(attempt.pod_time, attempt.lease_time) for attempt in found)
    assert exact <= account.billed <= exact + SLACK * sum(attempt.gpus for attempt in found)


def test_a_deleted_pod_is_billed_until_the_end_that_argo_recorded() -> None:
    account = Account()
    account.bill_pods([pod("p", 0)], {}, STUDIES, at(10))
    account.bill_pods([], workflow(finished={"p": 100}), STUDIES, at(9000))
    assert 100 <= account.billed <= 100 + SLACK


def test_a_deleted_pod_of_a_stopped_workflow_is_billed_until_now() -> None:
    """Argo ends the nodes of a stopped Workflow at once, while their pods still write a checkpoint."""
    account = Account()
    account.bill_pods([pod("p", 0)], {}, STUDIES, at(10))
    account.bill_pods([], workflow(finished={"p": 11}, was_stopped=True), STUDIES, at(60))
    assert account.billed == 61


def test_an_end_before_the_billed_time_does_not_lower_the_account() -> None:
    account = Account()
    account.bill_pods([pod("p", 0)], {}, STUDIES, at(100))
    account.bill_pods([], workflow(finished={"p": 50}), STUDIES, at(200))
    assert account.billed == 100


def test_a_lost_lease_does_not_lower_the_account() -> None:
    account = Account()
    entry = account.entry("mine", "uid-mine", "store")
    account.settle(entry, [LeasedTime("p", at(0), 500.0)], at(600))
    account.settle(entry, [], at(700))
    assert account.billed == 500


def test_a_recreated_study_is_billed_only_for_new_leases() -> None:
    account = Account()
    leases = [LeasedTime("p", at(0), 100.0)]
    account.settle(account.entry("mine", "uid-1", "store"), leases, at(200))
    account.settle(account.entry("mine", "uid-2", "store"), leases, at(300))
    assert account.billed == 100
    account.settle(account.entry("mine", "uid-2", "store"), [*leases, LeasedTime("q", at(400), 50.0)], at(500))
    assert (account.billed, account.billed_by_study()["uid-2"]) == (150, 50)


def test_a_killed_attempt_costs_its_time_until_the_end_that_argo_recorded() -> None:
    lease = LeasedTime("p", at(0), 0.0, gpus=8, node="n", is_ended=False)
    assert lease.until({"n": at(100)}).gpu_seconds == 8 * 101
    assert lease.until({}).gpu_seconds == 0
    assert replace(lease, is_ended=True).until({"n": at(100)}).gpu_seconds == 0


def test_the_pods_of_a_jobset_share_the_lease_of_the_first() -> None:
    """JobSet names its pods JOBSET-JOB-INDEX-INDEX; the lease of rank 0 counts the GPUs of all."""
    account = Account()
    pods = [replace(pod(f"set-{number}", 0, gpus=8), host="set") for number in range(2)]
    account.bill_pods(pods, {}, STUDIES, at(100))
    account.bill_pods([], {}, STUDIES, at(100))
    account.settle(account.entry("mine", "uid-mine", "store"), [LeasedTime("set-node-0-0", at(5), 16 * 95.0)], at(100))
    assert account.billed == 16 * 101


def test_folding_deleted_studies_keeps_the_billed_total() -> None:
    account = Account()
    count = MOST_ENTRIES + 50
    for number in range(count):
        entry = account.entry(f"s{number}", f"uid-{number}", "store")
        account.settle(entry, [LeasedTime("p", at(0), 10.0)], at(number))
        entry.is_closed = True
    account.fold(["uid-0"])
    assert account.billed == 10 * count
    assert (len(account.entries), account.folded_entries) == (MOST_ENTRIES + 1, 49)
    assert ("uid-0", "store") in account.entries, "an existing study is never folded"
    assert ("uid-1", "store") not in account.entries, "the oldest are folded first"


def test_limiting_the_ended_pods_keeps_the_billed_total() -> None:
    account = Account()
    count = MOST_ENDED_PODS + 20
    account.bill_pods([pod(f"p{number}", 0) for number in range(count)], {}, STUDIES, at(10))
    account.bill_pods([], {}, STUDIES, at(10))
    account.fold(["uid-mine"])
    assert len(account.pods) == MOST_ENDED_PODS
    assert account.billed == 11 * count


def test_a_reset_excludes_earlier_usage_from_the_cap_and_is_applied_once() -> None:
    account = Account()
    account.settle(account.entry("mine", "uid-mine", "store"), [LeasedTime("p", at(0), 100.0)], at(0))
    assert account.reset("why", at(1))
    assert not account.reset("why", at(2))
    assert not account.reset("", at(3))
    assert (account.billed, account.used) == (100, 0)
    account.settle(account.entry("mine", "uid-mine", "store"), [LeasedTime("p", at(0), 130.5)], at(4))
    assert (account.billed, account.used) == (131, ceil(130.5) - 100)


@given(attempts(), st.integers(1, 2000))
def test_an_account_is_read_back_unchanged_from_its_status(found: list[Attempt], now: int) -> None:
    account = Account()
    seen = [pod(attempt.name, attempt.start, gpus=attempt.gpus) for attempt in found if attempt.start <= now]
    account.bill_pods(seen, {}, STUDIES, at(now))
    account.settle(account.entry("mine", "uid-mine", "store", "s3://studies"), [], at(now))
    account.reset("why", at(now))
    status = account.to_status()
    assert Account.from_status(status).to_status() == status
