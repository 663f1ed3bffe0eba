"""The limit of failures within one run of a study."""

from trainer.context import Stopped

from orchestrator.contract.events import End, Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.errors import LeaseLost
from orchestrator.store import Store, addresses, leases
from tests.trainer.attempt.attempts import DIGEST, attempt, failing_with, failure


def test_third_failure_of_a_run_is_permanent(store: Store, placement: Placement) -> None:
    broken = failing_with(ZeroDivisionError("again"))

    assert [attempt(store, placement, broken)[0] for _ in range(3)] == [ExitCode.FAILED, ExitCode.FAILED, ExitCode.REFUSED]
    last = failure(store, 3)
    assert last is not None
    assert last["code"] == ExitCode.REFUSED
    assert "failure 3" in last["message"]
    assert attempt(store, placement)[0] == ExitCode.REFUSED, "no further attempt is made in this run"


def test_new_run_number_resets_the_failure_count(store: Store, placement: Placement) -> None:
    for _ in range(3):
        attempt(store, placement, failing_with(ZeroDivisionError("again")))

    assert attempt(store, Placement(cache=placement.cache, run_number=2))[0] == ExitCode.DONE


def test_stops_and_held_leases_do_not_count_as_failures(store: Store, placement: Placement) -> None:
    for _ in range(5):
        attempt(store, placement, failing_with(Stopped("asked")))
        attempt(store, placement, failing_with(LeaseLost("overtaken")))

    assert attempt(store, placement)[0] == ExitCode.DONE


def test_repeatedly_killed_attempts_reach_the_failure_limit(store: Store, placement: Placement) -> None:
    root = addresses.work_root("prepare", DIGEST)
    for _ in range(3 * leases.SILENT_ENDS):
        leases.acquire(store, root, DIGEST, leases.Holder(study="small")).end("killed", 137)

    code, events = attempt(store, placement)

    assert code == ExitCode.REFUSED
    assert isinstance(events[-1], End)
    assert "retry" in events[-1].message
