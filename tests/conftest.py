"""Settings and fixtures of every test: small plans, and a worker that follows the protocol without training."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.plan import Cell, CellStage, Plan, PlannedTask
from orchestrator.contract.tasks import (
    FromInitialisation,
    Optimizer,
    PrepareTask,
    Reader,
    Schedule,
    Shape,
    Task,
    TrainTask,
    Trajectory,
    digest_of_task,
)
from orchestrator.contract.vocabulary import TaskKind

# Other tests run on the same cores, so the duration of an example is not meaningful
settings.register_profile("without clock", deadline=None)
settings.load_profile("without clock")

SHAPE = Shape(32, 2, 1, 96, 1024, True, 500_000, "1e-5")
OPTIMIZER = Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5")
Graph = Mapping[str, Sequence[str]]
PlanOf = Callable[..., Plan]


def trajectory(seed: int) -> Trajectory:
    return Trajectory(
        FromInitialisation(SHAPE, seed, "0.06"), (("a" * 64, 1),), (), 1, 128, 4, OPTIMIZER,
        Schedule("constant", 0, "0.006"), "fp32", NUMERICS,
    )  # fmt: skip


def task_called(name: str, number: int) -> Task:
    """A prepare task if `name` starts with p, else a train task; `name:tokens` sets its tokens, by default 512."""
    if name.startswith("p"):
        return PrepareTask(name, Reader("text", 1_000_000), "file:" + "b" * 64, 200, None)
    return TrainTask(trajectory(number), int(name.partition(":")[2] or 512))


def plan_of(graph: Graph, works: Mapping[str, str] | None = None, cells: Mapping[str, Sequence[str]] | None = None) -> Plan:
    """A plan with the tasks of `graph` (name -> its dependencies). `works`: task -> its `work`; `cells`: cell -> its train tasks."""
    tasks = {name: task_called(name, number) for number, name in enumerate(graph)}
    digests = {name: digest_of_task(task) for name, task in tasks.items()}
    planned = {
        digests[name]: PlannedTask(
            digest=digests[name],
            kind=TaskKind.PREPARE if name.startswith("p") else TaskKind.TRAIN,
            task=task,
            needs=tuple(digests[need] for need in graph[name]),
            work=(works or {}).get(name, digests[name]),
            size="tiny",
            from_tokens=0,
            label=name,
        )
        for name, task in tasks.items()
    }
    return Plan("small", 128, "", {"tiny": SHAPE}, (), planned, _cells(cells or {}, digests), ())


def _cells(cells: Mapping[str, Sequence[str]], digests: Mapping[str, str]) -> tuple[Cell, ...]:
    return tuple(Cell(name, "r", "tiny", "0", 1, 1, (_stage(tuple(digests[task] for task in trains)),)) for name, trains in cells.items())


def _stage(trains: tuple[str, ...]) -> CellStage:
    return CellStage("pretrain", "pretrain", trains, "", (), 512, 512, 1, 512, "0", "0", ())


@dataclass(frozen=True)
class FakeTrainer:
    """Scripts the attempts of tests/local/fake_worker.py and reads what they did.

    An attempt is a dictionary: `code` (exit code), `message`, `kill` (send SIGKILL to itself), `wait` (until SIGTERM, then exit
    with 75), `ignore_stop` (run until killed), `steps` (progress events), `print` (a line on stdout), `delete_markers` (digests whose done
    markers are deleted first). Attempts after the last one end with 0.
    """

    folder: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).parent / "local" / "fake_worker.py"), str(self.folder)]

    def script(self, attempts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "script.json").write_text(json.dumps(attempts))

    def seen(self) -> list[list[str]]:
        """Events in order, as [what, digest, pid]; `what` is "start" or "end"."""
        log = self.folder / "seen.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def started(self) -> list[str]:
        return [digest for what, digest, _ in self.seen() if what == "start"]


@pytest.fixture(scope="session")
def small_plan() -> PlanOf:
    return plan_of


@pytest.fixture
def fake_trainer(tmp_path: Path) -> FakeTrainer:
    fake = FakeTrainer(tmp_path / "store")
    fake.script({})
    return fake
