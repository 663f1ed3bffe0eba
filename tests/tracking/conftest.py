"""Fixtures of the mirror's tests: an MLflow database of its own for each test, and the store of a finished study."""

import shutil
from pathlib import Path

import pytest

from orchestrator.store import Store, open_store
from orchestrator.store.memory import in_memory_store
from orchestrator.store.plans import freeze
from orchestrator.tracking.mirror import Mirror
from tests.analysis.synthetic_study import SyntheticStudy
from tests.tracking.synthetic_store import PLAN, finish_all


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs of the study. Creating its tables takes seconds, so each test starts from a copy."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Mirror(in_memory_store(), SyntheticStudy("another", sizes=("0.03M",), seeds=(1,)).plan(), f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def finished_store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"))
    finish_all(store)
    freeze(store, PLAN, {})
    return store
