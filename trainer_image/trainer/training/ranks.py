"""Data-parallel training by several processes (ranks) of one model.

Rank 0 performs the attempt: it owns lease, checkpoints, metrics, record and exit code. The other ranks hold a copy of model and
optimizer, process their part of every batch, and only read from the store. Gradients are summed over all ranks, so that all ranks make
the same update. The order of these sums, and with it the last bits of a result, depends on the number of ranks, as it does on the number
of threads. The order of the data does not.

If a rank is lost, the other ranks raise PeerLost in their next collective and exit; a retry resumes from the last checkpoint.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.contract.events import Placement
from orchestrator.errors import TaskRefused
from trainer.context import PeerLost

# The other ranks wait while rank 0 fetches or writes a checkpoint, and all ranks wait while one fetches a shard
STEP_TIMEOUT: Final = timedelta(minutes=30)
# Pods of a JobSet start when each is scheduled
JOIN_TIMEOUT: Final = timedelta(minutes=10)
BUCKET_BYTES: Final = 64 * 2**20
"""Gradients are all-reduced in buckets of about this size: large enough for network throughput, small compared to the model."""


class Group:
    """The process group of a task, seen from one rank. With one rank, every method is a no-op.

    `local_rank`: index of this rank on its node; the ranks of a node share downloads.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None, local_rank: int = 0) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self.world = world
        self.device = device or torch.device("cpu")

    def batch_slice(self, sequences: int) -> slice:
        """Return the slice of a batch that this rank processes. Raises TaskRefused if there are more ranks than sequences."""
        if self.world > sequences:
            raise TaskRefused(
                f"{self.world} ranks cannot share batches of {sequences} sequences; give the size fewer GPUs or nodes, or a larger batch"
            )
        return slice(sequences * self.rank // self.world, sequences * (self.rank + 1) // self.world)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks. Raises PeerLost."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _peer_errors():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, value: bool) -> bool:
        """Return whether `value` is true on any rank. Raises PeerLost."""
        if self.world == 1:
            return value
        flag = torch.tensor([float(value)], device=self.device)
        self.sum([flag])
        return bool(flag.item())

    def broadcast_object(self, value: object = None) -> Any:  # noqa: ANN401  (returns the value of rank 0)
        """Return the `value` of rank 0 on all ranks. Raises PeerLost."""
        box = [value]
        if self.world > 1:
            with _peer_errors():
                dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of every rank with the values of rank 0. Raises PeerLost."""
        for tensor in tensors if self.world > 1 else ():
            with _peer_errors(), torch.no_grad():
                dist.broadcast(tensor, src=0)

    def leave(self) -> None:
        """Destroy the process group. Afterwards only rank 0 continues the attempt."""
        if self.world > 1:
            dist.destroy_process_group()


SINGLE_RANK: Final = Group()


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Convert a plain RuntimeError, which torch raises for a lost rank, to PeerLost. Errors of this rank's GPU have other types."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as problem:
        raise PeerLost(f"another rank was lost ({str(problem).splitlines()[0][:300]})") from problem


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def join(placement: Placement) -> Group:
    """Join and return the group described by torchrun's environment variables; a group of one without them.

    Waits for the other ranks. Raises PeerLost if they do not join in time, TaskRefused if `placement` requires another number of ranks.
    """
    world, gpus = int(os.environ.get("WORLD_SIZE", "1")), placement.gpus
    if world != placement.world_size:
        raise TaskRefused(
            f"--gpus, --ranks and --nodes ask for {placement.world_size} processes, but WORLD_SIZE is {world}; "
            "a worker of `scaling-study run` is one process with one GPU (--gpus 1); `python -m trainer DIGEST` starts as many as required"
        )
    if world == 1:
        return Group(device=torch.device("cuda" if gpus else "cpu"))
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    with _peer_errors():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=JOIN_TIMEOUT)
        dist.barrier(device_ids=[device.index] if gpus else None)
    _set_step_timeout()
    return Group(dist.get_rank(), world, device, local_rank)


def _set_step_timeout() -> None:
    """Replace the timeout for joining by the one for steps, which may take longer."""
    dist.distributed_c10d._set_pg_timeout(STEP_TIMEOUT, dist.group.WORLD)
