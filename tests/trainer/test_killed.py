"""What no kill, stop or race may change: losses, weights and the hash of the tokens, bit for bit, and who counts.

Real worker processes on a folder. A trajectory makes hundreds of steps a second and the attempts write checkpoints at every step or every
second, so that kills fall into steps, into checkpoints and between them.
"""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from trainer.attempt.provenance import versions

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import GRAD_NORM, LEARNING_RATE, LOSS
from orchestrator.store import Store, addresses, leases, metrics, records
from tests.trainer.small_study import BATCH, WINDOW, SmallStudy, bits_per_byte, continuation, make_small_study
from tests.trainer.worker_process import WorkerProcess, trainer_worker, worker_process

STEPS = 500
TOKENS_A_STEP = WINDOW * BATCH
KILLS = 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_small_study(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def uninterrupted(prepared: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStudy, Record]:
    """The same task in this process, at one go."""
    study = copied(prepared, tmp_path_factory.mktemp("uninterrupted"))
    digest = study.plan(study.train(STEPS))
    assert study.run(digest) == ExitCode.DONE
    return study, record_of(study, digest)


@pytest.fixture
def study(prepared: SmallStudy, tmp_path: Path) -> SmallStudy:
    return copied(prepared, tmp_path)


def copied(study: SmallStudy, folder: Path) -> SmallStudy:
    shutil.copytree(study.folder, folder / "store")
    return replace(study, folder=folder / "store", placement=replace(study.placement, cache=str(folder / "cache")))


def record_of(study: SmallStudy, digest: str) -> Record:
    record = records.read_record(study.store, digest)
    assert record is not None
    return record


def root_of(task: TrainTask) -> str:
    return addresses.work_root("train", digest_of(task.trajectory.identity()))


def curve(store: Store, task: TrainTask) -> list[tuple[int, int, str, float]]:
    table = metrics.series(store, root_of(task), task.tokens).to_pylist()
    rows = [(row["step"], row["tokens"], row["name"], row["value"]) for row in table]
    return sorted(row for row in rows if row[2] in (LOSS, GRAD_NORM, LEARNING_RATE))


def pointers(store: Store, task: TrainTask) -> dict[str, bytes]:
    folder = addresses.checkpoints_prefix(root_of(task))
    return {stat.key: store.objects.get(stat.key) for stat in store.objects.list(folder)}


def assert_same(study: SmallStudy, record: Record, expected: tuple[SmallStudy, Record], task: TrainTask | None = None) -> None:
    """Bit for bit: floats are compared as they are, files by their hash."""
    task = task or study.train(STEPS)
    assert record.results == expected[1].results
    assert {name: made.sha256 for name, made in record.artifacts.items()} == {
        name: made.sha256 for name, made in expected[1].artifacts.items()
    }
    assert curve(study.store, task) == curve(expected[0].store, task)
    assert len(curve(study.store, task)) == 3 * task.tokens // TOKENS_A_STEP


def test_a_task_killed_five_times_equals_an_uninterrupted_one(study: SmallStudy, uninterrupted: tuple[SmallStudy, Record]) -> None:
    draw = random.Random(7)
    task = study.train(STEPS)
    digest = study.plan(task)
    kept: dict[str, bytes] = {}
    for kill in range(KILLS):
        placement = replace(study.placement, checkpoint_seconds=kill % 2)
        with worker_process(trainer_worker(str(study.folder))) as worker:
            worker.until_ready()
            worker.ask(digest, placement)
            worker.until_progress(reached(kept) + draw.randrange(1, 60) * TOKENS_A_STEP)
            time.sleep(draw.random() * 0.05)  # kills at a random moment of a step; no assertion depends on it
            worker.kill()
        assert records.read_record(study.store, digest) is None
        now = pointers(study.store, task)
        assert kept.items() <= now.items(), "a checkpoint that counted was replaced or deleted"
        kept = now

    assert study.run(digest) == ExitCode.DONE

    record = record_of(study, digest)
    assert_same(study, record, uninterrupted)
    assert kept.items() <= pointers(study.store, task).items()
    assert [one.number for one in record.attempts] == list(range(1, KILLS + 2))
    assert [one.how for one in record.attempts] == ["no word"] * KILLS + ["done"]
    assert all(one.versions == versions() for one in record.attempts), "killed attempts have said what they were"


def reached(kept: dict[str, bytes]) -> int:
    return max((addresses.pointer_tokens(key) or 0 for key in kept), default=0)


def test_stopped_task_resumes_where_it_stopped(study: SmallStudy, uninterrupted: tuple[SmallStudy, Record]) -> None:
    task = study.train(STEPS)
    digest = study.plan(task)
    with worker_process(trainer_worker(str(study.folder))) as worker:
        worker.ask(digest, study.placement)
        worker.until_progress(20 * TOKENS_A_STEP)

        worker.signal(signal.SIGTERM)

        assert worker.until_end().code == ExitCode.STOPPED
        assert worker.left_with() == ExitCode.STOPPED
    (first,) = leases.history(study.store, root_of(task))
    assert first.ended is not None
    assert first.ended.code == ExitCode.STOPPED
    stopped_at = reached(pointers(study.store, task))
    assert 20 * TOKENS_A_STEP <= stopped_at < task.tokens
    assert study.run(digest) == ExitCode.DONE
    record = record_of(study, digest)
    assert_same(study, record, uninterrupted)
    assert (record.attempts[-1].from_tokens, record.attempts[-1].tokens_lost) == (stopped_at, 0)


@pytest.fixture(scope="module")
def rivals(prepared: SmallStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmallStudy, WorkerProcess, WorkerProcess]]:
    """Two workers on one store; each test gives them a trajectory of its own."""
    study = copied(prepared, tmp_path_factory.mktemp("rivals"))
    with worker_process(trainer_worker(str(study.folder))) as one, worker_process(trainer_worker(str(study.folder))) as other:
        one.until_ready()
        other.until_ready()
        yield study, one, other


def test_of_two_workers_on_one_task_one_works_and_the_other_leaves_nothing(
    rivals: tuple[SmallStudy, WorkerProcess, WorkerProcess], uninterrupted: tuple[SmallStudy, Record]
) -> None:
    study, one, other = rivals
    digest = study.plan(study.train(STEPS))
    one.ask(digest, study.placement)
    other.ask(digest, study.placement)

    codes = sorted([one.until_end().code, other.until_end().code])

    assert codes == [ExitCode.DONE, ExitCode.HELD]
    assert_same(study, record_of(study, digest), uninterrupted)
    assert len(record_of(study, digest).attempts) == 1


def test_of_two_horizons_at_once_one_works_and_the_other_waits_for_it(
    rivals: tuple[SmallStudy, WorkerProcess, WorkerProcess], uninterrupted: tuple[SmallStudy, Record]
) -> None:
    study, one, other = rivals
    shorter, longer = study.train(STEPS // 2, seed=2), study.train(STEPS, seed=2)
    shorter_digest, longer_digest = study.plan(shorter), study.plan(longer)
    one.ask(shorter_digest, study.placement)
    other.ask(longer_digest, study.placement)

    codes = {shorter_digest: one.until_end().code, longer_digest: other.until_end().code}

    assert sorted(codes.values()) == [ExitCode.DONE, ExitCode.HELD]
    assert [body.digest for body in leases.history(study.store, root_of(longer))] == [
        digest for digest, code in codes.items() if code == ExitCode.DONE
    ], "the loser has left nothing"
    assert {study.run(shorter_digest), study.run(longer_digest)} == {ExitCode.DONE}
    for task, digest in ((shorter, shorter_digest), (longer, longer_digest)):
        assert uninterrupted[0].run(uninterrupted[0].plan(task)) == ExitCode.DONE
        assert_same(study, record_of(study, digest), (uninterrupted[0], record_of(uninterrupted[0], digest)), task)


def test_horizons_one_after_the_other_train_no_token_twice(study: SmallStudy, uninterrupted: tuple[SmallStudy, Record]) -> None:
    for steps in (STEPS // 4, STEPS):
        assert study.run(study.plan(study.train(steps))) == ExitCode.DONE

    record = record_of(study, study.plan(study.train(STEPS)))

    assert record.attempts[-1].from_tokens == STEPS // 4 * TOKENS_A_STEP
    assert_same(study, record, uninterrupted)


def test_a_trained_state_is_scored_on_both_suites(uninterrupted: tuple[SmallStudy, Record]) -> None:
    study, _ = uninterrupted
    state = study.train(STEPS)
    trajectory = digest_of(state.trajectory.identity())
    for source in study.sources:
        bits, choices = (study.plan(make(state, trajectory, source)) for make in (bits_per_byte, continuation))

        assert [study.run(bits), study.run(choices)] == [ExitCode.DONE] * 2

        scored = record_of(study, bits).results
        assert 0.1 < float(scored["bits_per_byte"]) < 1.5
        assert scored["documents"] == 10
        assert float(record_of(study, choices).results["accuracy"]) > 0.5
        assert set(record_of(study, choices).artifacts) == {"items"}


def test_a_suite_that_cannot_be_run_yet_is_refused_in_one_sentence(uninterrupted: tuple[SmallStudy, Record]) -> None:
    from trainer.attempt.perform import run_task

    study, _ = uninterrupted
    state = study.train(STEPS)
    task = replace(bits_per_byte(state, digest_of(state.trajectory.identity()), study.sources[0]), suite="nl-reasoning", items={})
    said: list[object] = []

    code = run_task(study.store, study.plan(task), Placement(cache=study.placement.cache), said.append, lambda: False)

    assert code == ExitCode.REFUSED
    assert "suite 'nl-reasoning' is not implemented in this trainer (its benchmarks are listed" in str(said[-1])
