"""Fixtures of the attempt tests."""

from pathlib import Path

import pytest

from orchestrator.contract.events import Placement
from orchestrator.store import Store, records
from orchestrator.store.memory import in_memory_store
from tests.trainer.attempt.attempts import TASK


@pytest.fixture
def placement(tmp_path: Path) -> Placement:
    return Placement(study="small", cache=str(tmp_path / "cache"), image="trainer@sha256:00")


@pytest.fixture
def store() -> Store:
    store = in_memory_store()
    records.create_task(store, TASK)
    return store
