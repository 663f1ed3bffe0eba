"""`python -m trainer.training.measure`: measure the training speed of small shapes, for `scaling-study plan --measure`.

Reads one JSON document from stdin, a list of {"shape": identity of a Shape, "sequence_length": tokens, "batch": sequences}, and writes a
list of tokens per second to stdout. Uses one CPU thread, as a worker of a local run does. Nothing is stored.
"""

import json
import sys
import time
from typing import Final

import torch

from orchestrator.contract.tasks import FromInitialisation, Optimizer, Shape
from trainer.checkpoints.state import Position, State
from trainer.model.transformer import initialised
from trainer.training.optimizer import adamw, clear, grad_norm, update
from trainer.training.step import gradients

SECONDS: Final = 0.5
"""Measuring time per shape, after a warm-up step."""
_OPTIMIZER: Final = Optimizer("0.9", "0.95", "1e-8", "0.1", "0", "1", "1e-5")


def tokens_per_second(shape: Shape, sequence_length: int, batch: int, seconds: float = SECONDS) -> float:
    """Return the tokens per second of training steps of `batch` random sequences, in float32 on one thread."""
    torch.set_num_threads(1)
    model = initialised(FromInitialisation(shape, 1, "0.02"))
    state = State(model, adamw(model, _OPTIMIZER), Position())
    ids = torch.randint(shape.vocabulary, (batch, sequence_length + 1), generator=torch.Generator().manual_seed(1))
    steps, began = -1, time.perf_counter()
    while steps < 1 or time.perf_counter() - began < seconds:
        clear(state.optimizer)
        gradients(model, ids, float(_OPTIMIZER.z_loss), 0, torch.float32)
        update(state.optimizer, 1e-4, grad_norm(state.optimizer).item(), float(_OPTIMIZER.clip))
        steps += 1
        if steps == 0:
            began = time.perf_counter()
    return steps * batch * sequence_length / (time.perf_counter() - began)


def main() -> None:
    """Measure the shapes given on stdin and print their tokens per second."""
    requests = json.load(sys.stdin)
    json.dump([tokens_per_second(Shape(**entry["shape"]), entry["sequence_length"], entry["batch"]) for entry in requests], sys.stdout)


if __name__ == "__main__":
    main()
