"""Provenance of a result: code, packages, machine and the attempts that contributed to it.

`perform` writes the provenance of this process into the attempt's folder at its start and at its end, because a lease does not contain
commits and packages, and a killed attempt cannot write anything afterwards. A record collects the provenance of all attempts.
"""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final

from orchestrator.contract.record import Attempt
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import ContractError, Damaged, KeyMissing
from orchestrator.store import Store, addresses, leases
from orchestrator.store.documents import parse_model
from orchestrator.store.leases import LeaseBody
from orchestrator.store.tasks import read_task
from trainer.context import Context, Outcome

COMMIT_VARIABLE: Final = "SCALING_STUDY_COMMIT"
"""Commit that the image was built from; the suffix `-dirty` marks uncommitted changes."""

PACKAGES: Final = ("scaling-study", "scaling-study-trainer", "torch", "transformers", "tokenizers", "numpy")
ATTEMPT_FILE: Final = "attempt.json"


@lru_cache(maxsize=1)
def commit() -> tuple[str, bool]:
    """Return the commit of this code and whether tracked files were changed since; ("", False) if unknown."""
    stated = os.environ.get(COMMIT_VARIABLE, "")
    if stated:
        return stated.removesuffix("-dirty"), stated.endswith("-dirty")
    package = Path(__file__).parent
    # a virtual environment inside another project's checkout must not name that project's commit
    if _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return "", False
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--untracked-files=no")
    return (head or "").strip(), bool((changes or "").strip())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout if answer.returncode == 0 else None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a result."""
    installed = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in installed.items() if version}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@lru_cache(maxsize=2)
def processor(gpus: int) -> str:
    """Return the name of the GPU, or of the CPU if no GPU is used."""
    if gpus:
        import torch

        return f"{gpus} x {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cpu_seconds() -> float:
    """Return the user and system CPU time of this process and its ended children, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class AttemptFile:
    """Provenance of this attempt, written to attempt.json in its folder at its start and end."""

    def __init__(self, context: Context) -> None:
        placement, (code, dirty) = context.placement, commit()
        self._context = context
        self._cpu_seconds = cpu_seconds()
        self._attempt = Attempt(
            number=context.lease.number,
            study=placement.study,
            run_number=placement.run_number,
            node=context.lease.body.host,
            pid=os.getpid(),
            image=placement.image,
            commit=code,
            dirty=dirty,
            versions=versions(),
            processor=processor(placement.gpus),
            threads=placement.threads,
            ranks=placement.world_size,
            gpus=placement.gpus * placement.nodes,
            start=context.lease.body.start.isoformat(),
            end="",
        )
        self._write()

    def close(self, how: str, outcome: Outcome | None = None) -> Attempt:
        """Write and return the attempt with its end. Without an outcome, the values of an earlier call are kept."""
        now, body = self._context.store.clock(), self._context.lease.body
        known = {"from_tokens": body.from_tokens} if outcome is None else _tokens(outcome)
        self._attempt = self._attempt.model_copy(
            update={
                "end": now.isoformat(),
                "how": how,
                "cpu_seconds": round(cpu_seconds() - self._cpu_seconds, 3),
                "gpu_seconds": round(body.gpus * (now - body.start).total_seconds(), 3),
                **known,
            }
        )
        self._write()
        return self._attempt

    def _write(self) -> None:
        lease = self._context.lease
        self._context.store.objects.put(lease.key(ATTEMPT_FILE), self._attempt.model_dump_json(indent=1).encode())


def _tokens(outcome: Outcome) -> dict[str, int]:
    return {"from_tokens": outcome.from_tokens, "tokens_lost": outcome.tokens_lost}


def attempts(store: Store, work_root: str, own: Attempt) -> list[Attempt]:
    """Return all attempts below `work_root` up to now, `own` last, from their attempt.json files and leases."""
    before = [body for body in leases.history(store, work_root) if body.number < own.number]
    ends = {digest: _end_of(store, digest) for digest in {body.digest for body in before}}
    lost = [
        leases.tokens_lost(before[:place], body.from_tokens, ends[body.digest]) if body.took_up else 0 for place, body in enumerate(before)
    ]
    return [*(_attempt(store, work_root, body, tokens) for body, tokens in zip(before, lost, strict=True)), own]


def _end_of(store: Store, digest: str) -> int:
    """Return the tokens at which a train task ends; 0, that is no tokens lost, for other tasks and unreadable ones.

    A damaged lease, and one that `store verify --repair` took for a checkpoint, name no task.
    """
    if not digest:
        return 0
    try:
        task = read_task(store, digest)
    except (KeyMissing, Damaged, ContractError):
        return 0
    return task.tokens if isinstance(task, TrainTask) else 0


def _attempt(store: Store, work_root: str, body: LeaseBody, tokens_lost: int) -> Attempt:
    """Return an earlier attempt. Its end comes from the lease, because a killed attempt has not written it."""
    return _read_attempt(store, work_root, body).model_copy(
        update={
            "end": (body.ended.at if body.ended else body.renewed).isoformat(),
            "how": body.ended.how if body.ended else "no word",
            "gpu_seconds": round(leases.seconds(body) * body.gpus, 3),
            "from_tokens": body.from_tokens,
            "tokens_lost": tokens_lost,
        }
    )


def _read_attempt(store: Store, work_root: str, body: LeaseBody) -> Attempt:
    try:
        key = addresses.attempt_key(work_root, body.number, ATTEMPT_FILE)
        return parse_model(Attempt, store.objects.get(key), key, "the provenance of an attempt")
    except (KeyMissing, Damaged):
        return Attempt(
            number=body.number,
            study=body.study,
            run_number=body.run_number,
            node=body.host,
            pid=body.pid,
            gpus=body.gpus,
            start=body.start.isoformat(),
            end="",
        )
