"""Fixtures of the training tests: a prepared source, runs on a copy of it, and an uninterrupted run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer.context import Outcome

from orchestrator.store import Store
from orchestrator.store.memory import in_memory_store
from tests.trainer.prepared import publish
from tests.trainer.training.training_runs import VOCABULARY, TrainingRuns, new_runs


@pytest.fixture(scope="session")
def prepared_source() -> tuple[Store, str]:
    """A store with one prepared source: a random walk over the ids, which a small model can learn."""
    store = in_memory_store()
    draw = np.random.default_rng(1)
    tokens = np.cumsum(draw.integers(1, 4, 40_000)) % (VOCABULARY - 1) + 1
    digest = publish(store, 1, [int(token) for token in tokens], vocabulary=VOCABULARY, shard_tokens=15_000)
    return store, digest


@pytest.fixture
def runs(prepared_source: tuple[Store, str], tmp_path: Path) -> TrainingRuns:
    return new_runs(prepared_source, tmp_path)


@pytest.fixture(scope="session")
def uninterrupted(prepared_source: tuple[Store, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[Any]]:
    """Outcome and metrics of twenty steps in one attempt."""
    runs = new_runs(prepared_source, tmp_path_factory.mktemp("uninterrupted"))
    task = runs.task(20)
    return runs.attempt(task), runs.metric_rows(task)
