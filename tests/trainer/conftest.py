"""Fixtures shared by the tests that start trainer processes."""

from collections.abc import Iterator

import pytest

from tests.trainer.worker_process import ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()
