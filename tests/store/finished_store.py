"""A finished study in a folder, made by the commands' own functions with a trainer that computes nothing, and ways to damage its files.

The trainer's leases, quarantine and records are the real ones (`trainer.attempt.perform.run_task`); only the work of a task is replaced,
and the worker is this process.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet
from trainer.attempt.perform import run_task
from trainer.context import Context, Outcome

from orchestrator.api import RunOptions, run
from orchestrator.contract.events import Event, Placement
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import EvaluateTask, FromState, PrepareTask, TokenizerTask, TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import KeyMissing
from orchestrator.local.workers import Inbox
from orchestrator.store import Store, addresses, artifacts, checkpoints, metrics, open_store, records
from orchestrator.store.maintenance import write_gc_report
from orchestrator.store.plans import current
from tests import small_study

# One cell of the two
STUDY = small_study.STUDY.replace("codePercent: [0, 50]", "codePercent: [50]")
TOKENS_PER_SOURCE = 1_000_000


def work(context: Context) -> Outcome:
    """Do what a trainer does with the store, and nothing else."""
    match context.task:
        case TokenizerTask():
            tokenizer = artifacts.write_bytes(context.store, context.lease.key("tokenizer.json"), _bytes(context.digest))
            return Outcome({"vocabulary": 1024, "bytes": 1000}, {"tokenizer": tokenizer})
        case PrepareTask():
            return _prepare(context)
        case TrainTask() as task:
            return _train(context, task)
        case EvaluateTask() as task:
            return _evaluate(context, task)
    raise AssertionError(context.task)


def _prepare(context: Context) -> Outcome:
    shard = artifacts.write_bytes(context.store, context.lease.key("000000.bin"), _bytes(context.digest))
    manifest = artifacts.write_bytes(context.store, context.lease.key("manifest.json"), shard.model_dump_json().encode())
    return Outcome({"tokens": TOKENS_PER_SOURCE, "documents": 10}, {"manifest": manifest, "000000.bin": shard})


def _train(context: Context, task: TrainTask) -> Outcome:
    store, lease, trajectory = context.store, context.lease, task.trajectory
    for digest, _ in trajectory.shares:
        _read_all(context, digest)
    if isinstance(trajectory.start, FromState):
        root = addresses.work_root(TaskKind.TRAIN, trajectory.start.trajectory)
        checkpoints.load(store, root, trajectory.start.tokens, context.cache)
    latest = checkpoints.load_latest(store, lease.work_root, task.tokens, context.cache)
    start = latest[0].tokens if latest else 0
    lease.start_from(start)
    for tokens in (task.tokens // 2, task.tokens):
        if tokens > start:
            metrics.append(store, lease, [(tokens, tokens, "loss", 3.0)])
            files: Mapping[str, Path | bytes] = {"config.json": b"{}", "model.safetensors": _bytes(f"{lease.work_root}{tokens}")}
            checkpoints.publish(store, lease, tokens, files, {"loss": 3.0})
    final, _ = checkpoints.load(store, lease.work_root, task.tokens, context.cache)
    return Outcome({"loss": 3.0, "tokens": task.tokens, "steps": 100}, dict(final.files), start)


def _evaluate(context: Context, task: EvaluateTask) -> Outcome:
    if context.lease.number == 1:
        raise OSError("the first attempt at every evaluation fails, so that there is a failure.json")
    checkpoints.load(context.store, addresses.work_root(TaskKind.TRAIN, task.trajectory), task.tokens, context.cache)
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"item": [context.digest]}), table)
    items = artifacts.write_bytes(context.store, context.lease.key("items.parquet"), table.getvalue())
    return Outcome({"bits_per_byte": 1.25, "nats": 866.4, "bytes": 1000, "tokens": 250, "documents": 10}, {"items": items})


def _read_all(context: Context, digest: str) -> None:
    record = records.read_record(context.store, digest)
    if record is None:
        raise KeyMissing(f"{digest} has no record")
    for artifact in record.artifacts.values():
        artifacts.fetch(context.store, artifact, context.cache)


def _bytes(seed: str) -> bytes:
    return b"".join(hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(40))


@dataclass(eq=False)
class InProcessWorker:
    """Performs a task at once, in this process; its messages are handled afterwards."""

    store: Store
    inbox: Inbox
    number: int = 1
    task: str = ""
    is_ready: bool = True

    def assign(self, digest: str, placement: Placement) -> None:
        def emit(event: Event) -> None:
            self.inbox.put((self, event))  # type: ignore[arg-type]

        self.task = digest
        run_task(self.store, digest, placement, emit, lambda: False, work)


@dataclass
class InProcessPool:
    """In place of `orchestrator.local.workers.WorkerPool`: one worker, in this process."""

    command: Sequence[str]
    extra: Mapping[str, str]
    logs: Path
    limit: int
    devices: Sequence[tuple[str, ...]] = ()
    workers: list[InProcessWorker] = field(default_factory=list)

    def idle(self) -> InProcessWorker | None:
        return next((worker for worker in self.workers if not worker.task), None)

    def has_room(self) -> bool:
        return not self.workers or self.idle() is not None

    def start(self, inbox: Inbox) -> InProcessWorker:
        self.workers.append(InProcessWorker(open_store(self.command[self.command.index("--store") + 1]), inbox))
        return self.workers[-1]

    def close(self) -> None:
        self.workers.clear()


@dataclass(frozen=True)
class FinishedStudy:
    """A study file, its finished store, and the plan."""

    file: Path
    folder: Path
    plan: Plan

    @property
    def store(self) -> Store:
        return open_store(str(self.folder))

    def copy(self, folder: Path) -> "FinishedStudy":
        """Return a copy whose files are hard links: every write of a store replaces a file."""
        shutil.copytree(self.folder, folder, copy_function=os.link)
        return FinishedStudy(self.file, folder, self.plan)

    def files(self) -> dict[str, tuple[int, int]]:
        """The inode and mode of every file and folder, to detect changes."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            for name in (*folders, *names):
                status = Path(folder, name).lstat()
                found[str(Path(folder, name).relative_to(self.folder))] = (status.st_ino if name in names else 0, status.st_mode)
        return found

    def results(self) -> dict[str, object]:
        """The results of every task, by digest; None where there is no record."""
        found = {digest: records.read_record(self.store, digest) for digest in self.plan.tasks}
        return {digest: record.results if record else None for digest, record in found.items()}

    def task(self, kind: TaskKind) -> PlannedTask:
        """The last task of a kind: of training, the one that ends a stage."""
        return [task for task in self.plan.tasks.values() if task.kind == kind][-1]

    def keys(self) -> dict[str, str]:
        """One key for each kind of file."""
        prepare, train, evaluate = (self.task(kind) for kind in (TaskKind.PREPARE, TaskKind.TRAIN, TaskKind.EVALUATE))
        assert isinstance(train.task, TrainTask)
        root, tokens = addresses.work_root(train.kind, train.work), train.task.tokens
        evaluated = addresses.work_root(evaluate.kind, evaluate.work)
        prepared = addresses.work_root(prepare.kind, prepare.work)
        digest = current(self.store, "small")[0]  # type: ignore[index]
        (table, *_) = sorted(stat.key for stat in self.store.objects.list(f"{root}/attempts/000001/metrics"))
        return {
            "plan": addresses.plan_key(digest),
            "version": addresses.study_key("small", 1),
            "task": addresses.task_key(train.digest),
            "record of prepare": addresses.record_key(prepare.digest),
            "record of train": addresses.record_key(train.digest),
            "record of evaluate": addresses.record_key(evaluate.digest),
            "marker": addresses.done_key(train.digest),
            "lease": addresses.lease_key(root, 1),
            "checkpoint": addresses.attempt_key(root, 1, "checkpoints", str(tokens), "model.safetensors"),
            "checkpoint, not needed": addresses.attempt_key(root, 1, "checkpoints", str(tokens // 2), "model.safetensors"),
            "manifest": addresses.attempt_key(root, 1, "checkpoints", str(tokens), "manifest.json"),
            "pointer": addresses.checkpoint_pointer_key(root, tokens),
            "pointer, not needed": addresses.checkpoint_pointer_key(root, tokens // 2),
            "metrics": table,
            "items": addresses.attempt_key(evaluated, 2, "items.parquet"),
            "shard": addresses.attempt_key(prepared, 1, "000000.bin"),
            "manifest of a corpus": addresses.attempt_key(prepared, 1, "manifest.json"),
            "failure": addresses.attempt_key(evaluated, 1, "failure.json"),
            "attempt": addresses.attempt_key(root, 1, "attempt.json"),
            "report of gc": addresses.GC_REPORT,
        }


def finish_study(folder: Path) -> FinishedStudy:
    """Run the study in `folder`. The caller has replaced WorkerPool by InProcessPool."""
    for name, line in (("text/a.txt", "Ein Satz. "), ("code/a.py", "x = 1\n")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(line * 500)
    file = folder / "study.yaml"
    file.write_text(STUDY)
    outcome = run(file, RunOptions(workers=1, tracking=False, plain=True, out=folder / "report"))
    assert outcome.is_complete
    assert outcome.plan is not None
    write_gc_report(outcome.store, [], removed=False)
    return FinishedStudy(file, folder / "store", outcome.plan)


def _write(path: Path, body: bytes) -> None:
    """Replace a file, which the pristine store may share by a hard link."""
    path.unlink()
    path.write_bytes(body)


def _truncate(path: Path) -> None:
    _write(path, path.read_bytes()[: path.stat().st_size // 2])


def _change_a_digit(path: Path) -> None:
    """Change a decimal digit near the middle to another one: what is left is valid JSON."""
    body = bytearray(path.read_bytes())
    place = next((at for at in range(len(body) // 2, len(body)) if chr(body[at]) in "23456789"), len(body) // 2)
    body[place] ^= 1
    _write(path, bytes(body))


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x.json").write_text("{}")


def _replace_by_link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to(os.__file__)


def _replace_by_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": _truncate,
    "emptied": lambda path: _write(path, b""),
    "changed digit": _change_a_digit,
    "deleted": Path.unlink,
    "folder": _replace_by_folder,
    "link out of the store": _replace_by_link_out,
    "link to itself": _replace_by_link_to_itself,
    "pipe": _replace_by_pipe,
    "200,000 brackets": lambda path: _write(path, b"[" * 200_000 + b"]" * 200_000),
    "JSON of another type": lambda path: _write(path, b"[1]"),
}
