"""Losses, weights and token hash are bit-identical after kills, stops and races between workers.

The workers are real processes on a store in a folder. Those that are killed or stopped train towards a horizon that they cannot reach, so
that no test depends on how fast they are; a task that ends a few steps later then resumes the trajectory in this process. Workers write a
checkpoint at every step or every second, so that kills hit steps, checkpoints and the time between them.
"""

import random
import signal
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from trainer.attempt.perform import run_task
from trainer.attempt.provenance import versions

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import GRAD_NORM, LEARNING_RATE, LOSS
from orchestrator.store import Store, addresses, leases, metrics
from tests.trainer.small_study import BATCH, WINDOW, SmallStudy, bits_per_byte, continuation, make_small_study, work_root
from tests.trainer.worker_process import ForkServer

TOKENS_PER_STEP = WINDOW * BATCH
STEPS = 300
# Hours of training
UNREACHABLE_STEPS = 10**7
KILLS = 5


@pytest.fixture(scope="module")
def prepared(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """The study before any training. Made while the fork server starts."""
    del fork_server
    return make_small_study(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def study(prepared: SmallStudy, tmp_path: Path) -> SmallStudy:
    return prepared.copy(tmp_path / "study")


def run_uninterrupted(prepared: SmallStudy, folder: Path, task: TrainTask) -> tuple[SmallStudy, Record]:
    """Run the task in this process, in a copy of the study in which nothing was trained."""
    study = prepared.copy(folder)
    digest = study.plan(task)
    assert study.run(digest) == ExitCode.DONE
    return study, study.record(digest)


@pytest.fixture(scope="module")
def uninterrupted(prepared: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStudy, Record]:
    return run_uninterrupted(prepared, tmp_path_factory.mktemp("uninterrupted"), prepared.train(STEPS))


def curves(store: Store, task: TrainTask) -> list[tuple[int, int, str, float]]:
    """Return (step, tokens, metric, value) of the metrics that must be reproducible."""
    table = metrics.series(store, work_root(task), task.tokens).to_pylist()
    rows = [(row["step"], row["tokens"], row["name"], row["value"]) for row in table]
    return sorted(row for row in rows if row[2] in (LOSS, GRAD_NORM, LEARNING_RATE))


def pointers(store: Store, task: TrainTask) -> dict[str, bytes]:
    """Return the published checkpoint pointers of the trajectory."""
    folder = addresses.checkpoints_prefix(work_root(task))
    return {stat.key: store.objects.get(stat.key) for stat in store.objects.list(folder)}


def hashes(record: Record) -> dict[str, str]:
    return {name: artifact.sha256 for name, artifact in record.artifacts.items()}


def assert_identical(study: SmallStudy, task: TrainTask, expected: tuple[SmallStudy, Record]) -> None:
    """Assert that results, files and metrics are bit-identical: floats are compared exactly, files by their hash."""
    record = study.record(study.plan(task))
    assert record.results == expected[1].results
    assert hashes(record) == hashes(expected[1])
    assert curves(study.store, task) == curves(expected[0].store, task)
    assert len(curves(study.store, task)) == 3 * task.tokens // TOKENS_PER_STEP


def resume(study: SmallStudy, steps: int) -> TrainTask:
    """Train `steps` steps beyond the last checkpoint in this process, and return the task that ends there."""
    task = study.train(study.last_checkpoint(study.train(1)) // TOKENS_PER_STEP + steps)
    assert study.run(study.plan(task)) == ExitCode.DONE
    return task


def test_trajectory_killed_five_times_equals_uninterrupted_one(
    fork_server: ForkServer, prepared: SmallStudy, study: SmallStudy, tmp_path: Path
) -> None:
    draw = random.Random(7)
    unreachable = study.train(UNREACHABLE_STEPS)
    digest = study.plan(unreachable)
    published: dict[str, bytes] = {}
    for kill in range(KILLS):
        with fork_server.worker(str(study.folder)) as worker:
            worker.read_until_ready()
            worker.request(digest, replace(study.placement, checkpoint_seconds=kill % 2))
            worker.read_until_progress(study.last_checkpoint(unreachable) + draw.randrange(1, 60) * TOKENS_PER_STEP)
            time.sleep(draw.random() * 0.05)  # kills at a random point of a step; no assertion depends on it
            worker.kill()
        now = pointers(study.store, unreachable)
        assert published.items() <= now.items(), "a published checkpoint was replaced or deleted"
        published = now

    task = resume(study, 20)

    assert_identical(study, task, run_uninterrupted(prepared, tmp_path / "reference", task))
    assert published.items() <= pointers(study.store, task).items()
    attempts = study.record(study.plan(task)).attempts
    assert [attempt.number for attempt in attempts] == list(range(1, KILLS + 2))
    assert [attempt.how for attempt in attempts] == ["no word"] * KILLS + ["done"]
    assert all(attempt.versions == versions() for attempt in attempts), "killed attempts have a provenance too"


def test_stopped_trajectory_resumes_at_the_step_where_it_stopped(
    fork_server: ForkServer, prepared: SmallStudy, study: SmallStudy, tmp_path: Path
) -> None:
    with fork_server.worker(str(study.folder)) as worker:
        worker.request(study.plan(study.train(UNREACHABLE_STEPS)), study.placement)
        worker.read_until_progress(20 * TOKENS_PER_STEP)

        worker.signal(signal.SIGTERM)

        assert worker.read_until_end().code == ExitCode.STOPPED
        assert worker.exit_code() == ExitCode.STOPPED
    (lease,) = leases.history(study.store, work_root(study.train(1)))
    assert lease.ended is not None
    assert lease.ended.code == ExitCode.STOPPED
    stopped_at = study.last_checkpoint(study.train(1))
    assert stopped_at >= 20 * TOKENS_PER_STEP

    task = resume(study, 20)

    assert_identical(study, task, run_uninterrupted(prepared, tmp_path / "reference", task))
    attempt = study.record(study.plan(task)).attempts[-1]
    assert (attempt.from_tokens, attempt.tokens_lost) == (stopped_at, 0)


@pytest.mark.parametrize("horizons", [(1, 1), (1, 2)], ids=["one task", "two horizons of one trajectory"])
def test_one_of_two_workers_trains_and_the_other_changes_nothing(
    horizons: tuple[int, int], fork_server: ForkServer, prepared: SmallStudy, study: SmallStudy, tmp_path: Path
) -> None:
    digests = [study.plan(study.train(horizon * UNREACHABLE_STEPS)) for horizon in horizons]
    store = str(study.folder)
    with fork_server.worker(store) as one, fork_server.worker(store) as other, ThreadPoolExecutor(2) as readers:
        workers = (one, other)
        for worker in workers:
            worker.read_until_ready()
        for worker, digest in zip(workers, digests, strict=True):
            worker.request(digest, study.placement)
        ends = [readers.submit(worker.read_until_end) for worker in workers]
        wait(ends, return_when=FIRST_COMPLETED)
        (loser,) = [place for place, end in enumerate(ends) if end.done()]
        winner = 1 - loser
        workers[winner].signal(signal.SIGTERM)
        assert [ends[loser].result().code, ends[winner].result().code] == [ExitCode.HELD, ExitCode.STOPPED]
    assert [lease.digest for lease in leases.history(study.store, work_root(study.train(1)))] == [digests[winner]]

    task = resume(study, 20)

    assert_identical(study, task, run_uninterrupted(prepared, tmp_path / "reference", task))
    assert len(study.record(study.plan(task)).attempts) == 2


def test_successive_horizons_train_no_token_twice(study: SmallStudy, uninterrupted: tuple[SmallStudy, Record]) -> None:
    for steps in (STEPS // 4, STEPS):
        assert study.run(study.plan(study.train(steps))) == ExitCode.DONE

    assert study.record(study.plan(study.train(STEPS))).attempts[-1].from_tokens == STEPS // 4 * TOKENS_PER_STEP
    assert_identical(study, study.train(STEPS), uninterrupted)


def test_trained_state_is_evaluated_on_both_suites(uninterrupted: tuple[SmallStudy, Record]) -> None:
    study, _ = uninterrupted
    state = study.train(STEPS)
    trajectory = digest_of(state.trajectory.identity())
    for source in study.sources:
        bits, choices = (study.plan(make(state, trajectory, source)) for make in (bits_per_byte, continuation))

        assert [study.run(bits), study.run(choices)] == [ExitCode.DONE] * 2

        results = study.record(bits).results
        assert 0.1 < float(results["bits_per_byte"]) < 1.5
        assert results["documents"] == 10
        assert float(study.record(choices).results["accuracy"]) > 0.5
        assert set(study.record(choices).artifacts) == {"items"}


def test_suite_without_an_implementation_is_refused(uninterrupted: tuple[SmallStudy, Record]) -> None:
    study, _ = uninterrupted
    state = study.train(STEPS)
    task = replace(bits_per_byte(state, digest_of(state.trajectory.identity()), study.sources[0]), suite="nl-reasoning", items={})
    events: list[object] = []

    code = run_task(study.store, study.plan(task), Placement(cache=study.placement.cache), events.append, lambda: False)

    assert code == ExitCode.REFUSED
    assert "suite 'nl-reasoning' is not implemented in this trainer (its benchmarks are listed" in str(events[-1])
