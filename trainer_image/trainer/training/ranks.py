"""The processes that train one model together: data parallel, rank 0 speaks for all.

Rank 0 is an attempt like any other: lease, checkpoints, metrics, record and exit code are its own. The other ranks hold a copy of model
and optimizer, take their part of every batch and know nothing of the store but what they read. Gradients are summed over all ranks, so
that everybody makes the same update; the order of these sums, and with it the last bits of a result, depends on how many ranks there
are, as it does on threads. The order of the data does not.

A rank that goes takes the others with it: whoever waits for it gets PeerLost and leaves, to begin again from the last checkpoint.
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

# While rank 0 fetches or writes a checkpoint the others wait for it, and all wait for whoever fetches a shard
PATIENCE: Final = timedelta(minutes=30)
# Pods of a JobSet start when each has found a place
GATHERING: Final = timedelta(minutes=10)
BUCKET_BYTES: Final = 64 * 2**20
"""Gradients are summed in pieces of about this size: large enough for a network's speed, small beside the model."""


class Group:
    """All ranks of a task, as one of them sees it. With one rank every method does nothing, at no cost.

    `local_rank`: which one it is of those on this machine, who share what is fetched.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None, local_rank: int = 0) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self.world = world
        self.device = device or torch.device("cpu")

    def part(self, sequences: int) -> slice:
        """Which sequences of a batch are this rank's. Raises TaskRefused when there are more ranks than sequences."""
        if self.world > sequences:
            raise TaskRefused(
                f"{self.world} ranks cannot share batches of {sequences} sequences; give the size fewer GPUs or nodes, or a larger batch"
            )
        return slice(sequences * self.rank // self.world, sequences * (self.rank + 1) // self.world)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each by its sum over all ranks. Raises PeerLost."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _peers():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, mine: bool) -> bool:
        """Whether it holds for some rank. Raises PeerLost."""
        if self.world == 1:
            return mine
        asked = torch.tensor([float(mine)], device=self.device)
        self.sum([asked])
        return bool(asked.item())

    def tell(self, value: object = None) -> Any:  # noqa: ANN401  (it gives back what it was given, on another rank)
        """What rank 0 says, to all: it gives the value, the others get it. Raises PeerLost."""
        box = [value]
        if self.world > 1:
            with _peers():
                dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values of rank 0. Raises PeerLost."""
        for tensor in tensors if self.world > 1 else ():
            with _peers(), torch.no_grad():
                dist.broadcast(tensor, src=0)

    def part_company(self) -> None:
        """The last word between ranks: what rank 0 does alone after it needs nobody."""
        if self.world > 1:
            dist.destroy_process_group()


ALONE: Final = Group()


@contextmanager
def _peers() -> Iterator[None]:
    """What torch says when another rank has gone is a RuntimeError of no particular type; what breaks on our own GPU has one."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as problem:
        raise PeerLost(f"another rank has gone ({str(problem).splitlines()[0][:300]})") from problem


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
    """The group that this process was started into, by the names that torchrun uses; a group of one without them.

    Waits for the other ranks. Raises PeerLost when they do not come, TaskRefused when `placement` means another number of them.
    """
    world, gpus = int(os.environ.get("WORLD_SIZE", "1")), placement.gpus
    if world != placement.world_size:
        raise TaskRefused(
            f"{placement.world_size} processes are to train together, by --gpus, --ranks and --nodes, and this is one of {world}; "
            "a worker of `scaling-study run` is one process with one GPU (--gpus 1), `python -m trainer DIGEST` starts as many as asked for"
        )
    if world == 1:
        return Group(device=torch.device("cuda" if gpus else "cpu"))
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    with _peers():
        dist.init_process_group("nccl" if gpus else "gloo", timeout=GATHERING)
        dist.barrier(device_ids=[device.index] if gpus else None)
    _be_patient()
    return Group(dist.get_rank(), world, device, local_rank)


def _be_patient() -> None:
    """Whoever has come may take longer over a step than over coming."""
    dist.distributed_c10d._set_pg_timeout(PATIENCE, dist.group.WORLD)
