"""One step of a trajectory: read a batch, compute gradients, update the parameters, advance the position.

`run` repeats it. A step reads and changes only the state; the recorder only receives its values.

Gradients are means over the whole step, whatever `micro_batch` is. Micro-batches change the order of float sums. By default the whole
batch is therefore processed at once, and split only if it does not fit into GPU memory.
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
from trainer.training.ranks import SINGLE_RANK, Group
from trainer.training.schedule import learning_rate

SKIPS_ALLOWED: Final = 10
"""Steps in a row that may have a non-finite loss or gradient; one more and the task is refused."""

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Recorder(Protocol):
    """Receives the values of each step."""

    def record(self, step: int, tokens: int, read: int, loss: float, grad_norm: float, rate: float) -> None: ...
    def flush(self) -> None: ...


def step(trajectory: Trajectory, mixture: Mixture, state: State, micro_batch: int, recorder: Recorder, group: Group = SINGLE_RANK) -> None:
    """Make and record the next step of `state`; skip its update if loss or gradients are not finite.

    Each rank of the group processes its part of the batch. Raises TaskRefused, LeaseLost, PeerLost.
    """
    before = state.position
    ids = mixture.batch(before.step).ids
    read = trajectory.tokens_per_step
    settings = trajectory.optimizer
    batch = torch.from_numpy(ids[group.batch_slice(len(ids))]).to(state.model.embedding.device)
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
    recorder.record(state.position.step, state.position.tokens, read, loss, norm, rate)
    if state.position.skipped_in_row > SKIPS_ALLOWED:
        recorder.flush()  # keeps the metrics that led to the failure
        raise TaskRefused(
            f"{state.position.skipped_in_row} steps in a row up to step {state.position.step} had a non-finite loss or gradient "
            f"(loss {loss}, gradient norm {norm}, rate {rate}); a lower peak or a longer warm-up usually helps"
        )


def gradients_that_fit(state: State, batch: Tensor, z_loss: float, micro_batch: int, dtype: torch.dtype, tokens: int = 0) -> Tensor:
    """Call `gradients`; on CUDA out-of-memory, halve the micro-batch until it fits.

    The size that fits is kept in `state.fitting_micro_batch`. Raises TaskRefused if a single sequence, or the requested `micro_batch`, does
    not fit.
    """
    while True:
        clear(state.optimizer)
        size = micro_batch or min(state.fitting_micro_batch or batch.shape[0], batch.shape[0])
        try:
            return gradients(state.model, batch, z_loss, size, dtype, tokens)
        except torch.OutOfMemoryError as problem:
            if micro_batch or size == 1:
                hint = "; set execution.microBatch lower, or leave it out" if micro_batch > 1 else "; the size needs a larger GPU"
                message = f"a forward pass of {size} x {batch.shape[1] - 1} tokens does not fit into GPU memory{hint}"
                raise TaskRefused(f"{message} ({problem})") from problem
        # not in the handler: the exception holds the activations
        state.fitting_micro_batch = size // 2
        if batch.is_cuda:
            torch.cuda.empty_cache()
        message = f"trainer: {size} sequences do not fit into GPU memory; the micro-batch is now {state.fitting_micro_batch}"
        print(message, file=sys.stderr, flush=True)


def gradients(model: Model, batch: Tensor, z_loss: float, micro_batch: int, dtype: torch.dtype, tokens: int = 0) -> Tensor:
    """Compute the gradients of the mean loss with z-loss in `model`; return the mean cross-entropy in nats per token.

    batch (sequences, T + 1) int64 on the model's device; `micro_batch` sequences at a time, 0 for all; `dtype` of matrix products.
    `tokens`: tokens of the whole step if the batch is a part of it; the results are then this part's contribution to the means.
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
