"""Training speed of this machine: from records of the store, or measured by the trainer."""

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Attempt, Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.store import Store
from orchestrator.store.memory import in_memory_store
from orchestrator.store.records import publish_record
from orchestrator.study import speed
from tests.conftest import plan_of

BEGAN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture
def plan() -> Plan:
    return plan_of({"p": [], "t:1024": ["p"]})


def finished_store(plan: Plan, seconds: float, gpus: int) -> Store:
    store = in_memory_store()
    for digest, planned in plan.tasks.items():
        if isinstance(planned.task, TrainTask):
            ended = BEGAN + timedelta(seconds=seconds)
            attempt = Attempt(number=1, start=BEGAN.isoformat(), end=ended.isoformat(), gpus=gpus)
            record = Record(digest=digest, identity=planned.task.identity(), attempts=[attempt], results={}, artifacts={}, nonce=digest)
            publish_record(store, record)
    return store


def test_records_of_cpu_runs_give_seconds_per_token(plan: Plan) -> None:
    store = finished_store(plan, 2.0, 0)
    assert speed.recorded_seconds_per_token(store, plan, set(plan.tasks)) == {"tiny": 2.0 / 1024}


def test_records_of_gpu_runs_and_pending_tasks_are_ignored(plan: Plan) -> None:
    assert speed.recorded_seconds_per_token(finished_store(plan, 2.0, 8), plan, set(plan.tasks)) == {}
    assert speed.recorded_seconds_per_token(finished_store(plan, 2.0, 0), plan, set()) == {}


def test_a_measurement_gives_the_speed_of_every_small_size(plan: Plan) -> None:
    measured = speed.measured_seconds_per_token(plan)
    assert list(measured) == ["tiny"]
    assert 0 < measured["tiny"] < 1
