"""Data-parallel training by several processes: the data and losses of one process, and no rank that waits forever.

Tasks that are stopped or killed have a horizon that they cannot reach, so that no test depends on how fast they are.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from trainer.attempt.launch import Launcher, is_needed, launch
from trainer.context import PeerLost
from trainer.training.ranks import Group, join

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import LOSS
from orchestrator.errors import TaskRefused
from orchestrator.store import leases, metrics
from tests.trainer.small_study import BATCH, WINDOW, SmallStudy, make_small_study, work_root
from tests.trainer.worker_process import ForkServer, WorkerProcess, worker_process

STEPS = 100
# Hours of training
UNREACHABLE_STEPS = 10**7
# Limits the wait for a checkpoint that is never written
TIMEOUT_SECONDS = 300


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """The study before any training."""
    return make_small_study(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def study(prepared: SmallStudy, tmp_path: Path) -> SmallStudy:
    return prepared.copy(tmp_path / "study")


def command_line(study: SmallStudy, digest: str, *flags: str) -> list[str]:
    """Return the arguments of `python -m trainer` for two ranks."""
    return [digest, "--store", str(study.folder), "--cache", study.placement.cache, "--ranks", "2", *flags]


def wait_for_checkpoint(study: SmallStudy, task: TrainTask) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not study.last_checkpoint(task):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)


def losses(study: SmallStudy, task: TrainTask) -> list[float]:
    rows = metrics.series(study.store, work_root(task), task.tokens).to_pylist()
    return [row["value"] for row in sorted(rows, key=lambda row: row["step"]) if row["name"] == LOSS]


def assert_trains_like_one_process(study: SmallStudy, task: TrainTask, prepared: SmallStudy, folder: Path) -> Record:
    """Compare data and losses of a finished task with those of one process. Return the record of the task."""
    reference = prepared.copy(folder)
    digest = reference.plan(task)
    assert reference.run(digest) == ExitCode.DONE
    record = study.record(digest)
    assert record.results["token_hash"] == reference.record(digest).results["token_hash"]
    assert len(losses(study, task)) * BATCH * WINDOW == task.tokens
    assert losses(study, task) == pytest.approx(losses(reference, task), abs=2e-4)
    return record


def executed(_: ForkServer, *arguments: str) -> AbstractContextManager[WorkerProcess]:
    return worker_process([sys.executable, "-m", "trainer", *arguments])


@pytest.mark.parametrize("start", [ForkServer.trainer, pytest.param(executed, marks=pytest.mark.long)], ids=["forked", "executed"])
def test_two_ranks_train_like_one_process(
    start: Callable[..., AbstractContextManager[WorkerProcess]],
    fork_server: ForkServer,
    study: SmallStudy,
    prepared: SmallStudy,
    tmp_path: Path,
) -> None:
    task = study.train(STEPS)
    with start(fork_server, *command_line(study, study.plan(task))) as trainer:
        assert trainer.exit_code() == ExitCode.DONE, trainer.stderr()
    record = assert_trains_like_one_process(study, task, prepared, tmp_path / "reference")
    assert [attempt.ranks for attempt in record.attempts] == [2]


def resume_in_one_process(study: SmallStudy) -> TrainTask:
    """Train 20 steps beyond the last checkpoint in this process, and return the task that ends there."""
    task = study.train(study.last_checkpoint(study.train(1)) // (BATCH * WINDOW) + 20)
    assert study.run(study.plan(task)) == ExitCode.DONE
    return task


def test_stopped_trajectory_resumes_with_another_number_of_ranks(
    fork_server: ForkServer, study: SmallStudy, prepared: SmallStudy, tmp_path: Path
) -> None:
    unreachable = study.train(UNREACHABLE_STEPS)
    with fork_server.trainer(*command_line(study, study.plan(unreachable), "--checkpoint-seconds", "0")) as trainer:
        wait_for_checkpoint(study, unreachable)
        trainer.signal(signal.SIGTERM)
        assert trainer.exit_code() == ExitCode.STOPPED, trainer.stderr()
    task = resume_in_one_process(study)
    record = assert_trains_like_one_process(study, task, prepared, tmp_path / "reference")
    assert record.attempts[1].from_tokens > 0
    assert [attempt.ranks for attempt in record.attempts] == [2, 1]


def test_killed_rank_ends_the_others_and_the_next_attempt_resumes(fork_server: ForkServer, study: SmallStudy) -> None:
    unreachable = study.train(UNREACHABLE_STEPS)
    digest = study.plan(unreachable)
    with fork_server.trainer(*command_line(study, digest, "--checkpoint-seconds", "0")) as trainer:
        wait_for_checkpoint(study, unreachable)
        os.kill(pid_of_rank(1, trainer.process.pid), signal.SIGKILL)
        assert trainer.exit_code() == 137, trainer.stderr()
    (lease,) = leases.history(study.store, work_root(unreachable))
    assert lease.ended is not None
    assert "another rank was lost" in lease.ended.message
    assert leases.failures([lease], digest, 1) == 0
    task = resume_in_one_process(study)
    assert study.record(study.plan(task)).attempts[1].from_tokens > 0


def pid_of_rank(rank: int, launcher: int) -> int:
    """Return the pid of a rank: the launcher starts them in order."""
    return int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[rank])


def test_failed_rank_ends_waiting_ranks_with_its_exit_code(tmp_path: Path) -> None:
    """With NCCL a rank may wait forever: the launcher ends the other ranks and returns the code of the failed one."""
    assert launched(tmp_path, exiting="1", code=ExitCode.REFUSED, failure_grace_seconds=0.2) == ExitCode.REFUSED


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.HELD])
def test_waiting_ranks_end_when_rank_0_has_nothing_to_do(tmp_path: Path, code: ExitCode) -> None:
    """Rank 0 never joins the group if the task is done or held by another attempt."""
    assert launched(tmp_path, exiting="0", code=code, exit_grace_seconds=0.2) == code


RANK = """
import os, signal, sys
from pathlib import Path
exiting, code, late = sys.argv[1:]
if os.environ["RANK"] == exiting:
    sys.exit(int(code))
signal.signal(signal.SIGALRM, lambda *_: Path(late).touch())
signal.alarm(300)
signal.pause()
"""


def launched(folder: Path, *, exiting: str, code: ExitCode, **grace_seconds: float) -> int:
    """Return the exit code of a launcher of two ranks: one exits with `code`, the other waits until the launcher ends it."""
    late = folder / "rank was not ended by the launcher"
    command = [sys.executable, "-c", RANK, exiting, str(int(code)), str(late)]
    launcher = Launcher([{"RANK": "0"}, {"RANK": "1"}], command, **grace_seconds)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        returned = launcher.run()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    assert not late.exists()
    return returned


def test_more_ranks_than_sequences_are_refused() -> None:
    with pytest.raises(TaskRefused, match="5 ranks cannot share batches of 4 sequences"):
        Group(0, 5).batch_slice(4)


@pytest.mark.parametrize("world", range(1, 9))
def test_every_sequence_is_processed_by_one_rank(world: int) -> None:
    for sequences in range(world, 20):
        parts = [range(sequences)[Group(rank, world).batch_slice(sequences)] for rank in range(world)]
        assert [sequence for part in parts for sequence in part] == list(range(sequences))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_is_refused_for_eight_gpus() -> None:
    """One process would use one of the eight GPUs, but the record would count all of them."""
    with pytest.raises(TaskRefused, match=r"ask for 8 processes, but WORLD_SIZE is 1"):
        join(Placement(gpus=8))
    assert join(Placement()).world == 1


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (RuntimeError("Connection closed by peer"), PeerLost),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), PeerLost),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), torch.AcceleratorError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_local_gpu_errors_are_not_reported_as_lost_ranks(
    problem: RuntimeError, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of the local GPU counts as a failure; the loss of another rank does not."""

    def broken(*_arguments: object) -> None:
        raise problem

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(expected):
        Group(0, 2).sum([torch.ones(2)])


def test_group_of_one_rank_is_a_no_op() -> None:
    tensor = torch.arange(3.0)
    group = Group()
    group.sum([tensor])
    group.broadcast_tensors([tensor])
    assert tensor.tolist() == [0, 1, 2]
    assert group.any(True)
    assert not group.any(False)
    assert group.broadcast_object("value") == "value"


@pytest.mark.parametrize(
    ("placement", "needed"),
    [(Placement(), False), (Placement(gpus=1), False), (Placement(gpus=8), True), (Placement(ranks=2), True), (Placement(nodes=2), True)],
)
def test_launcher_is_needed_for_several_ranks(placement: Placement, needed: bool) -> None:
    assert is_needed(placement) == needed


def test_missing_node_rank_is_refused() -> None:
    with pytest.raises(TaskRefused, match="NODE_RANK"):
        launch([], Placement(nodes=2))
