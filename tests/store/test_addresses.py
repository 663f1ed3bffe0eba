"""The layout of the store: a changed key would make every existing store unreadable."""

import pytest

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.store import addresses


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (addresses.task_key("d"), "tasks/d/task.json"),
        (addresses.record_key("d"), "tasks/d/record.json"),
        (addresses.done_key("d"), "done/d"),
        (addresses.work_root(TaskKind.TRAIN, "t"), "trajectories/t"),
        (addresses.work_root("train", "t"), "trajectories/t"),
        (addresses.work_root(TaskKind.PREPARE, "d"), "tasks/d"),
        (addresses.work_root(TaskKind.EVALUATE, "d"), "tasks/d"),
        (addresses.lease_key("trajectories/t", 7), "trajectories/t/lease/000007.json"),
        (addresses.attempt_key("tasks/d", 7, "metrics", "1.parquet"), "tasks/d/attempts/000007/metrics/1.parquet"),
        (addresses.checkpoint_pointer_key("trajectories/t", 4096), "trajectories/t/checkpoints/4096.json"),
        (addresses.plan_key("p"), "plans/p.json"),
        (addresses.study_key("to-code", 2), "studies/to-code/2.json"),
        (addresses.damaged_key("tasks/d/record.json", "n"), "damaged/tasks/d/record.json~n"),
    ],
)
def test_keys_never_change(key: str, expected: str) -> None:
    assert key == expected


@pytest.mark.parametrize("number", [1, 7, 999_999, 1_000_000])
def test_lease_number_is_inverse_of_lease_key(number: int) -> None:
    assert addresses.lease_number(addresses.lease_key("tasks/d", number)) == number


@pytest.mark.parametrize("key", ["tasks/d/lease/7.json", "tasks/d/lease/000007.json#1", "tasks/d/task.json"])
def test_other_keys_have_no_lease_number(key: str) -> None:
    assert addresses.lease_number(key) is None


def test_pointer_tokens_is_inverse_of_pointer_key() -> None:
    assert addresses.pointer_tokens("trajectories/t/checkpoints/4096.json") == 4096
    assert addresses.pointer_tokens("trajectories/t/attempts/000001/checkpoints/4096/manifest.json") is None
