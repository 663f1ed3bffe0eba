"""Tasks, records, a plan and a clock for the tests of the store."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from orchestrator.contract.identity import NUMERICS, digest_of
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.record import Artifact, Attempt, Record
from orchestrator.contract.tasks import (
    EvaluateTask,
    FromInitialisation,
    FromState,
    Optimizer,
    Schedule,
    Shape,
    Task,
    TrainTask,
    Trajectory,
    digest_of_task,
)
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.store import Store
from orchestrator.store.addresses import work_root

SHAPE = Shape(32, 2, 1, 96, 1024, True, 500_000, "1e-5")
TRAJECTORY = Trajectory(
    FromInitialisation(SHAPE, 1, "0.06"), (("a" * 64, 1),), (), 1, 128, 4, Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5"),
    Schedule("constant", 0, "0.006"), "fp32", NUMERICS,
)  # fmt: skip
ROOT = work_root(TaskKind.TRAIN, digest_of(TRAJECTORY.identity()))
T0 = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that only `advance` moves."""

    now: datetime = T0

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def train(tokens: int) -> TrainTask:
    return TrainTask(TRAJECTORY, tokens)


def cooldown(tokens: int, start: int) -> TrainTask:
    return TrainTask(replace(TRAJECTORY, start=FromState(digest_of(TRAJECTORY.identity()), start, True)), tokens)


def evaluation(tokens: int) -> EvaluateTask:
    return EvaluateTask(digest_of(TRAJECTORY.identity()), tokens, "bpb", {"source": "a" * 64}, NUMERICS)


def root_of(task: Task) -> str:
    if isinstance(task, TrainTask):
        return work_root(TaskKind.TRAIN, digest_of(task.trajectory.identity()))
    return work_root(TaskKind.EVALUATE, digest_of_task(task))


def record(task: Task, *, nonce: str = "ours", loss: float = 2.5, artifacts: dict[str, Artifact] | None = None) -> Record:
    return Record(
        digest=digest_of_task(task),
        identity=task.identity(),
        results={"loss": loss},
        artifacts=artifacts or {},
        attempts=[Attempt(number=1, start="2030-01-01T00:00:00+00:00", end="2030-01-01T00:01:00+00:00")],
        nonce=nonce,
    )


def plan(tasks: Iterable[Task], study: str = "small") -> Plan:
    planned = [
        PlannedTask(
            digest_of_task(task), TaskKind(task.identity()["kind"]), task, (), root_of(task).rpartition("/")[2], "tiny", 0, "a cell"
        )
        for task in tasks
    ]
    return Plan(study, 128, "file:" + "b" * 64, {"tiny": SHAPE}, (), {task.digest: task for task in planned}, (), ())


def overwrite(store: Store, key: str, change: str) -> None:
    """Damage an object: `flip` a byte, `cut` it in half, make it `empty`, or `remove` it."""
    body = store.objects.get(key)
    middle = len(body) // 2
    broken = {"flip": body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :], "cut": body[:middle], "empty": b""}
    if change == "remove":
        store.objects.delete(key)
    else:
        store.objects.put(key, broken[change])
