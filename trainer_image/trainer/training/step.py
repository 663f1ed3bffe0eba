"""One step of a trajectory: windows in, gradients, update, a place further.

`train` repeats it. What it reads is the state and the step's number, what it changes is the state; the curve only hears of it.

Gradients are means over the whole step whatever `micro_batch` is. Pieces change the order of float sums, so that without one the whole
batch goes at once, and in pieces only where a GPU's memory does not hold it.
"""

import sys
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from typing import Final, Protocol

import torch
from torch import Tensor

from orchestrator.contract.tasks import Trajectory
from orchestrator.errors import TaskRefused
from trainer.checkpoints.state import State
from trainer.data.sources import Mixture
from trainer.model.loss import head_loss
from trainer.model.transformer import Model
from trainer.training.optimizer import clear, grad_norm, gradients_of, update
from trainer.training.ranks import ALONE, Group
from trainer.training.schedule import learning_rate

SKIPS_ALLOWED: Final = 10
"""So many steps in a row may have a loss or gradient that is no number; one more and the task is refused."""

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Notes(Protocol):
    """Who hears of a step: a curve, or nobody."""

    def note(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None: ...
    def flush(self) -> None: ...


def step(trajectory: Trajectory, mixture: Mixture, state: State, micro_batch: int, curve: Notes, group: Group = ALONE) -> None:
    """Make the next step of `state`, or skip its update when its numbers are none, and note it.

    Each rank of the group takes its part of the batch. Raises TaskRefused, LeaseLost, PeerLost.
    """
    before = state.position
    ids = mixture.batch(before.step).ids
    read = trajectory.tokens_per_step
    settings = trajectory.optimizer
    batch = torch.from_numpy(ids[group.part(len(ids))]).to(state.model.embedding.device)
    nats = gradients_that_fit(state, batch, float(settings.z_loss), micro_batch, DTYPES[trajectory.precision], read)
    group.sum([*gradients_of(state.optimizer), nats])
    loss = nats.item()
    norm, rate = grad_norm(state.optimizer).item(), learning_rate(trajectory.schedule, before.step, read)
    digest = sha256(bytes.fromhex(before.token_hash) + ids.tobytes()).hexdigest()
    after = replace(before, step=before.step + 1, tokens=before.tokens + read, token_hash=digest)
    if isfinite(loss) and isfinite(norm):
        update(state.optimizer, rate, norm, float(settings.clip))
        state.position = after.after_loss(loss)
    else:
        state.position = replace(after, skipped=before.skipped + 1, skipped_in_row=before.skipped_in_row + 1)
    curve.note(state.position.step, state.position.tokens, read, loss, norm, rate)
    if state.position.skipped_in_row > SKIPS_ALLOWED:
        curve.flush()  # whoever reads the failure wants to see how it came
        raise TaskRefused(
            f"{state.position.skipped_in_row} steps in a row up to step {state.position.step} had a loss or gradient that is no number "
            f"(loss {loss}, gradient norm {norm}, rate {rate}); a lower peak or a longer warm-up usually helps"
        )


def gradients_that_fit(state: State, batch: Tensor, z_loss: float, micro_batch: int, dtype: torch.dtype, tokens: int = 0) -> Tensor:
    """`gradients`, with half as many sequences at a time as before whenever the GPU's memory did not hold them. `state` keeps how many fit.

    Raises TaskRefused when not even one fits, or not what `micro_batch` asks for.
    """
    while True:
        clear(state.optimizer)
        pieces = micro_batch or min(state.fits or batch.shape[0], batch.shape[0])
        try:
            return gradients(state.model, batch, z_loss, pieces, dtype, tokens)
        except torch.OutOfMemoryError as problem:
            if micro_batch or pieces == 1:
                asked = "; set execution.microBatch lower, or leave it out" if micro_batch > 1 else "; the size needs a larger GPU"
                told = f"a forward pass of {pieces} x {batch.shape[1] - 1} tokens does not fit the GPU's memory{asked}"
                raise TaskRefused(f"{told} ({problem})") from problem
        # not in the handler: the exception holds the activations
        state.fits = pieces // 2
        if batch.is_cuda:
            torch.cuda.empty_cache()
        print(f"trainer: {pieces} sequences at once do not fit the GPU's memory; now {state.fits}", file=sys.stderr, flush=True)


def gradients(model: Model, batch: Tensor, z_loss: float, micro_batch: int, dtype: torch.dtype, tokens: int = 0) -> Tensor:
    """Leave the gradients of the step's mean loss, z-loss included, in `model`, and return its mean cross-entropy in nats a token.

    batch (sequences, T + 1) int64 on the model's device; `micro_batch` sequences at a time, 0 for all; `dtype` of products. `tokens` of
    the whole step, where the batch is a part of it: then both are this part's share of the mean.
    """
    tokens = tokens or batch.shape[0] * (batch.shape[1] - 1)
    total = torch.zeros((), device=batch.device)
    for piece in torch.split(batch, micro_batch or batch.shape[0]):
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden = model(piece[:, :-1])
        objective, nats = head_loss(hidden.flatten(0, 1), model.head, piece[:, 1:].flatten(), z_loss, tokens, dtype)
        torch.autograd.backward(objective)
        total += nats
    return total
