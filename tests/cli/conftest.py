"""Fixtures of the command-line tests."""

import pytest

from tests.controller.simulated_cluster import SimulatedCluster


@pytest.fixture
def simulated() -> SimulatedCluster:
    return SimulatedCluster()
