"""When a lease is renewed: seldom enough for the store, often enough for the lease not to expire."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.vocabulary import CLOCK_MARGIN
from orchestrator.store.leases import RENEW_SECONDS, Holder, acquire, history, is_live
from orchestrator.store.memory import in_memory_store
from tests.store.samples import T0, Clock

ROOT = "trajectories/aa"
HOLDER = Holder(study="mine", host="node-7", gpus=8)


@pytest.mark.parametrize(
    ("lease_seconds", "later", "is_renewed"),
    [
        pytest.param(600, RENEW_SECONDS, True, id="after the minimum time"),
        pytest.param(600, RENEW_SECONDS - 1, False, id="too soon"),
        pytest.param(600, 0, False, id="at once"),
        pytest.param(8, 2, True, id="after a quarter of a short lease"),
        pytest.param(8, 1, False, id="too soon for a short lease"),
        pytest.param(600, -1, True, id="its clock went back"),
    ],
)
def test_progress_renews_a_lease_after_a_minimum_time(lease_seconds: float, later: float, is_renewed: bool) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = acquire(store, ROOT, "d", replace(HOLDER, lease_seconds=lease_seconds))
    clock.advance(later)
    lease.renew(100)
    (stored,) = history(store, ROOT)
    assert (stored.tokens, stored.renewed) == ((100, T0 + timedelta(seconds=later)) if is_renewed else (0, T0))
    assert lease.body.tokens == 100, "written by the next renewal, or at the end"


@settings(max_examples=25)
@given(lease_seconds=st.integers(1, 1200), step=st.integers(1, 300))
def test_lease_of_a_process_that_makes_progress_never_expires(lease_seconds: int, step: int) -> None:
    clock = Clock()
    store = in_memory_store(clock=clock)
    lease = acquire(store, ROOT, "d", replace(HOLDER, lease_seconds=lease_seconds))
    step = min(step, lease_seconds)
    for number in range(1, 9):
        clock.advance(step)
        (stored,) = history(store, ROOT)
        assert is_live(stored, clock() - CLOCK_MARGIN)
        lease.renew(number)
