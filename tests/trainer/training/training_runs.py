"""Runs of a small trajectory in a store of their own, stopped or killed at given steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from safetensors.torch import load
from trainer.context import Context, Outcome
from trainer.training import run as training_run

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS, digest_of
from orchestrator.contract.tasks import FromInitialisation, Optimizer, Schedule, Shape, TrainTask, Trajectory, digest_of_task
from orchestrator.store import Store, addresses, artifacts, leases, metrics
from orchestrator.store.leases import Holder, Lease
from orchestrator.store.memory import in_memory_store

VOCABULARY, LENGTH, BATCH = 64, 16, 4
STEP = LENGTH * BATCH
SHAPE = Shape(width=16, layers=2, heads=2, feed_forward=32, vocabulary=VOCABULARY, tied=False, rope_theta=10_000, norm_eps="1e-5")
ADAMW = Optimizer("0.9", "0.95", "1e-8", "0.1", "0", "1", "1e-4")
# A checkpoint interval in seconds that no test reaches
NEVER = 10**6


class Killed(BaseException):
    """Kills the attempt: derived from BaseException, so that no handler of the trainer runs."""


@dataclass(frozen=True)
class TrainingRuns:
    """A store with a prepared source, and attempts to train tasks on it."""

    store: Store
    source: str
    cache: Path

    def trajectory(self, **changes: Any) -> Trajectory:
        stable = Trajectory(
            start=FromInitialisation(SHAPE, 1, "0.06"), shares=((self.source, 1),), already_read=(), data_seed=1, sequence_length=LENGTH,
            batch=BATCH, optimizer=ADAMW, schedule=Schedule("constant", 4 * STEP, "0.01"), precision="fp32", numerics=NUMERICS,
        )  # fmt: skip
        return replace(stable, **changes)

    def task(self, steps: int, **changes: Any) -> TrainTask:
        return TrainTask(self.trajectory(**changes), steps * STEP)

    def attempt(self, task: TrainTask, stop: Callable[[], bool] = lambda: False, **placement: Any) -> Outcome:
        """Run an attempt under a lease, like `trainer.attempt.perform`, without record and exit code."""
        lease = leases.acquire(self.store, root(task), digest_of_task(task), Holder())
        try:
            return training_run.run(self.context(task, lease, stop, **placement))
        finally:
            lease.end("ended", 0)

    def context(self, task: TrainTask, lease: Lease, stop: Callable[[], bool] = lambda: False, **placement: Any) -> Context:
        """Return the context of an attempt. `stop` is called after steps only, not while shards are fetched."""
        settings = Placement(**{"checkpoint_seconds": NEVER, **placement})
        return Context(self.store, digest_of_task(task), task, lease, settings, self.cache, stop=lambda: lease.body.took_up and stop())

    def metric_rows(self, task: TrainTask) -> list[tuple[int, int, str, float]]:
        """Return the metrics up to the horizon, except those that depend on time."""
        rows = metrics.series(self.store, root(task), task.tokens).to_pylist()
        return [tuple(row.values()) for row in rows if row["name"] != "tokens_per_second"]

    def losses(self, task: TrainTask) -> list[float]:
        return [value for _, _, name, value in self.metric_rows(task) if name == "loss"]

    def updates(self, outcome: Outcome) -> int:
        """Return the number of updates that the optimizer has counted."""
        moments = load(artifacts.read_bytes(self.store, outcome.artifacts["optimizer.safetensors"]))
        return int(moments["norm.step"].item())


def new_runs(prepared_source: tuple[Store, str], cache: Path) -> TrainingRuns:
    """Return runs on a copy of the store with the prepared source."""
    store, original = in_memory_store(), prepared_source[0].objects
    for stat in original.list(""):
        store.objects.put(stat.key, original.get(stat.key))
    return TrainingRuns(store, prepared_source[1], cache)


def root(task: TrainTask) -> str:
    return addresses.work_root("train", digest_of(task.trajectory.identity()))


def after(steps: int, what: bool | type[BaseException] = True) -> Callable[[], bool]:
    """Return a `stop` callback that requests a stop, or raises `what`, at the end of the attempt's step number `steps`."""
    step = count(1)

    def stop() -> bool:
        if next(step) < steps:
            return False
        if isinstance(what, bool):
            return what
        raise what

    return stop


def hashes(outcome: Outcome) -> dict[str, str]:
    return {name: artifact.sha256 for name, artifact in outcome.artifacts.items()}


def assert_same(runs: TrainingRuns, task: TrainTask, outcome: Outcome, expected: tuple[Outcome, list[Any]]) -> None:
    """Assert that results, files and metrics are bitwise equal."""
    assert outcome.results == expected[0].results
    assert hashes(outcome) == hashes(expected[0])
    assert runs.metric_rows(task) == expected[1]
