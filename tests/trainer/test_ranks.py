"""Several processes that train one model: same data, same losses up to the order of sums, and no rank waits forever."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainer.attempt.launch import Launcher, is_needed, launch
from trainer.context import PeerLost
from trainer.training.ranks import Group, join

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import LOSS
from orchestrator.errors import TaskRefused
from orchestrator.store import addresses, checkpoints, leases, metrics, records
from tests.trainer.small_study import SmallStudy, make_small_study

STEPS = 100
# Long enough to be disturbed, whatever else the machine does
MANY = 1500


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return make_small_study(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def study(prepared: SmallStudy, tmp_path: Path) -> SmallStudy:
    shutil.copytree(prepared.folder, tmp_path / "store")
    return replace(prepared, folder=tmp_path / "store", placement=replace(prepared.placement, cache=str(tmp_path / "cache")))


@contextmanager
def trainer(study: SmallStudy, digest: str, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """The trainer's command, in a group of processes of its own that does not outlive the test."""
    command = [sys.executable, "-m", "trainer", digest, "--store", str(study.folder), "--cache", study.placement.cache, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ended(process: "subprocess.Popen[str]") -> int:
    """Its exit code; what it printed is shown when a test fails."""
    output, _ = process.communicate(timeout=120)
    print(output)
    return process.returncode


def root_of(task: TrainTask) -> str:
    return addresses.work_root("train", digest_of(task.trajectory.identity()))


def wait_for_a_checkpoint(study: SmallStudy, task: TrainTask) -> None:
    end = time.monotonic() + 60
    while not checkpoints.list_checkpoints(study.store, root_of(task)):
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.05)


def losses(study: SmallStudy, task: TrainTask) -> list[float]:
    rows = metrics.series(study.store, root_of(task), task.tokens).to_pylist()
    return [row["value"] for row in sorted(rows, key=lambda row: row["step"]) if row["name"] == LOSS]


def record_of(study: SmallStudy, digest: str) -> Record:
    record = records.read_record(study.store, digest)
    assert record is not None
    return record


def alone(prepared: SmallStudy, folder: Path, task: TrainTask) -> tuple[Record, list[float]]:
    """What one process makes of the task."""
    shutil.copytree(prepared.folder, folder / "alone")
    single = replace(prepared, folder=folder / "alone")
    assert single.run(single.plan(task)) == ExitCode.DONE
    return record_of(single, single.plan(task)), losses(single, task)


def test_two_ranks_learn_what_one_learns(study: SmallStudy, prepared: SmallStudy, tmp_path: Path) -> None:
    task = study.train(STEPS)
    digest = study.plan(task)
    with trainer(study, digest, "--ranks", "2") as process:
        assert ended(process) == ExitCode.DONE
    expected, curve = alone(prepared, tmp_path, task)
    record = record_of(study, digest)
    assert record.results["token_hash"] == expected.results["token_hash"]
    assert len(losses(study, task)) == STEPS
    assert losses(study, task) == pytest.approx(curve, abs=2e-4)
    assert [attempt.ranks for attempt in record.attempts] == [2]


def test_a_stopped_task_goes_on_with_another_number_of_ranks(study: SmallStudy, prepared: SmallStudy, tmp_path: Path) -> None:
    task = study.train(MANY)
    digest = study.plan(task)
    with trainer(study, digest, "--ranks", "2", "--checkpoint-seconds", "1") as process:
        wait_for_a_checkpoint(study, task)
        process.terminate()
        assert ended(process) == ExitCode.STOPPED
    assert records.read_record(study.store, digest) is None
    with trainer(study, digest) as process:
        assert ended(process) == ExitCode.DONE
    record = record_of(study, digest)
    assert record.attempts[1].from_tokens > 0
    assert [attempt.ranks for attempt in record.attempts] == [2, 1]
    assert record.results["token_hash"] == alone(prepared, tmp_path, task)[0].results["token_hash"]


def test_a_rank_that_is_killed_ends_the_others_and_the_next_attempt_goes_on(study: SmallStudy) -> None:
    task = study.train(MANY)
    digest = study.plan(task)
    with trainer(study, digest, "--ranks", "2", "--checkpoint-seconds", "1") as process:
        wait_for_a_checkpoint(study, task)
        os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
        assert ended(process) == 137
    (lease,) = leases.history(study.store, root_of(task))
    assert lease.ended is not None
    assert "another rank was lost" in lease.ended.message
    assert leases.failures([lease], digest, 1) == 0
    with trainer(study, digest) as process:
        assert ended(process) == ExitCode.DONE
    assert record_of(study, digest).attempts[1].from_tokens > 0


def process_of_rank(rank: int, launcher: int) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and f"\nPPid:\t{launcher}\n" in (folder / "status").read_text():
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in environment:
                return int(folder.name)
    raise AssertionError(f"no rank {rank}")


def test_failed_rank_ends_waiting_ranks_with_its_exit_code() -> None:
    """With NCCL a rank may wait forever: the launcher ends the other ranks and returns the code of the failed one."""
    assert launched(ends="1", code=ExitCode.REFUSED, failure_grace_seconds=0.5) == ExitCode.REFUSED


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.HELD])
def test_waiting_ranks_end_when_rank_0_has_nothing_to_do(code: ExitCode) -> None:
    """Rank 0 never joins the group if the task is done or held by another attempt."""
    begun = time.monotonic()
    assert launched(ends="0", code=code, exit_grace_seconds=0.5) == code
    assert time.monotonic() - begun < 60


def launched(*, ends: str, code: ExitCode, **seconds: float) -> int:
    """The code of a node of two ranks, of which one `ends` with `code` and the other stays."""
    program = f"import os, signal, sys; os.environ['RANK'] == '{ends}' and sys.exit({int(code)}); signal.alarm(120); signal.pause()"
    ranks = Launcher([{"RANK": "0"}, {"RANK": "1"}], [sys.executable, "-c", program], **seconds)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        return ranks.run()
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)


def test_more_ranks_than_sequences_are_refused() -> None:
    with pytest.raises(TaskRefused, match="5 ranks cannot share batches of 4 sequences"):
        Group(0, 5).part(4)


@pytest.mark.parametrize("world", range(1, 9))
def test_every_sequence_is_processed_by_one_rank(world: int) -> None:
    for sequences in range(world, 20):
        parts = [range(sequences)[Group(rank, world).part(sequences)] for rank in range(world)]
        assert [each for part in parts for each in part] == list(range(sequences))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_is_refused_for_eight_gpus() -> None:
    """A worker with eight GPUs would leave seven idle, but the record would count them."""
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
    group.copy([tensor])
    assert tensor.tolist() == [0, 1, 2]
    assert group.any(True)
    assert not group.any(False)
    assert group.broadcast("a word") == "a word"


@pytest.mark.parametrize(
    ("placement", "needed"),
    [(Placement(), False), (Placement(gpus=1), False), (Placement(gpus=8), True), (Placement(ranks=2), True), (Placement(nodes=2), True)],
)
def test_launcher_is_needed_for_several_ranks(placement: Placement, needed: bool) -> None:
    assert is_needed(placement) == needed


def test_missing_node_rank_is_refused() -> None:
    with pytest.raises(TaskRefused, match="NODE_RANK"):
        launch([], Placement(nodes=2))
