"""`scaling-study account`: the table, and the reset."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from orchestrator.cli.account import account_table, read_account, reset_account
from orchestrator.errors import NotFound
from tests.controller.scenarios import SMALL
from tests.controller.simulated_cluster import SimulatedCluster

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def billed() -> SimulatedCluster:
    """A namespace in which a study has held 8 GPUs for an hour."""
    simulated = SimulatedCluster(gpus=8)
    loop = simulated.controller()
    simulated.apply(**SMALL)
    simulated.step(loop)
    simulated.start_pods()
    simulated.clock.advance(3600 - 61)
    simulated.step(loop)
    return simulated


def test_the_table_shows_what_each_study_was_billed() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(account_table(read_account(billed().cluster)))
    lines = captured.get().splitlines()
    assert "8.00 GPU-hours count against the cap" in lines[0]
    (row,) = [line.split() for line in lines if line.strip().startswith("mine")]
    assert row == ["mine", "memory://simulated", "8.00", "0.00", "0.00", "8.00"]


def test_an_empty_namespace_has_an_empty_account() -> None:
    assert read_account(SimulatedCluster().cluster).billed == 0


def test_the_controller_applies_a_reset_and_an_equal_reason_resets_again() -> None:
    simulated = billed()
    loop = simulated.controller()
    for minute in range(2):
        assert "no longer count" in reset_account(simulated.cluster, "budget of 2030", NOW.replace(minute=minute))
        simulated.step(loop)
    account = read_account(simulated.cluster)
    assert [reset.reason for reset in account.resets] == ["2030-01-02 00:00:00 budget of 2030", "2030-01-02 00:01:00 budget of 2030"]
    assert account.used == 0
    assert account.billed >= 8 * 3600


def test_a_reset_of_a_namespace_without_an_account_is_an_error() -> None:
    with pytest.raises(NotFound):
        reset_account(SimulatedCluster().cluster, "why", NOW)
