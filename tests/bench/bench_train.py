"""Compare the training loop with transformers.Trainer: same weights, windows, batch and AdamW, float32, one thread.

`pytest tests/bench/bench_train.py -m bench -s` prints tokens per second of both and their ratio. Blocks of steps alternate, so that both
run under the same load; the medians of the blocks are compared. Trainer is timed from its first step to its last, without its set-up and
without logging. The training loop records every loss, hashes every token id and renews its lease, as always. On a busy machine, use the
ratio by CPU time.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pytest
import torch
from trainer.checkpoints.state import ExportSettings, Position, State, config
from trainer.context import Context
from trainer.data.sources import Mixture
from trainer.model.transformer import initialised, to_llama
from trainer.training.metrics_recorder import MetricsRecorder
from trainer.training.optimizer import adamw
from trainer.training.step import step

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS, digest_of
from orchestrator.contract.tasks import FromInitialisation, Optimizer, Schedule, Shape, TrainTask, Trajectory
from orchestrator.store import leases
from orchestrator.store.memory import in_memory_store

VOCABULARY, LENGTH, BATCH = 1024, 128, 4
BLOCKS, STEPS = 5, 60
TOKENS = STEPS * BATCH * LENGTH
SHAPES = {
    "32/2/1/96": Shape(32, 2, 1, 96, VOCABULARY, True, 500_000, "1e-5"),
    "128/3/4/352": Shape(128, 3, 4, 352, VOCABULARY, True, 500_000, "1e-5"),
}
ADAMW = Optimizer("0.9", "0.99", "1e-8", "0.1", "0.1", "1", "0")
RATE = "0.003"


Seconds: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
"""Wall-clock seconds and CPU seconds of this process."""


def now() -> Seconds:
    return np.array([time.perf_counter(), time.process_time()])


@dataclass(frozen=True)
class Read:
    ids: "np.ndarray[Any, np.dtype[np.int64]]"


class Windows:
    """A mixture with all batches in memory."""

    def __init__(self) -> None:
        self.ids = np.random.default_rng(1).zipf(1.3, (STEPS, BATCH, LENGTH + 1)).astype(np.int64) % VOCABULARY

    def batch(self, number: int) -> Read:
        return Read(self.ids[number % STEPS])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TrainingLoop:
    def __init__(self, shape: Shape, windows: Windows, cache: Path) -> None:
        start = FromInitialisation(shape, 1, "0.06")
        self.trajectory = Trajectory(
            start, (("0" * 64, 1),), (), 1, LENGTH, BATCH, ADAMW, Schedule("constant", 0, RATE), "fp32", NUMERICS
        )  # fmt: skip
        store, model = in_memory_store(), initialised(start)
        lease = leases.acquire(store, f"trajectories/{digest_of(self.trajectory.identity())}", "0" * 64, leases.Holder())
        task = TrainTask(self.trajectory, 10**12)
        self.curve = MetricsRecorder(Context(store, "0" * 64, task, lease, Placement(), cache), task.tokens)
        self.windows, self.state = windows, State(model, adamw(model, ADAMW), Position())

    def block(self) -> Seconds:
        start = now()
        for _ in range(STEPS):
            step(self.trajectory, cast(Mixture, self.windows), self.state, 0, self.curve)
        return now() - start


class TransformersTrainer:
    def __init__(self, shape: Shape, windows: Windows, folder: Path) -> None:
        from transformers import Trainer, TrainingArguments
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        model = LlamaForCausalLM(llama_config(shape))
        model.load_state_dict(dict(to_llama(initialised(FromInitialisation(shape, 1, "0.06")))), strict=False)
        rows = torch.from_numpy(windows.ids).flatten(0, 1)[:, :-1]
        arguments = TrainingArguments(
            output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, max_grad_norm=1.0,
            optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8, weight_decay=0.1,
            learning_rate=float(RATE), lr_scheduler_type="constant", logging_strategy="no", save_strategy="no",
            report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        self.clock = clock()
        self.trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows], callbacks=[self.clock])

    def block(self) -> Seconds:
        self.trainer.train()
        seconds: Seconds = self.clock.ended - self.clock.began
        return seconds


def llama_config(shape: Shape) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**json.loads(config(shape, ExportSettings(LENGTH, end_of_text=0))))


def clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = ended = np.zeros(2)

        def on_step_begin(self, *arguments: Any, **_: Any) -> None:
            if arguments[1].global_step == 0:
                self.began = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = now()

    return Clock()


@pytest.mark.bench
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tokens_per_second_compared_with_trainer(shape: Shape, tmp_path: Path) -> None:
    windows = Windows()
    training_loop, transformers_trainer = TrainingLoop(shape, windows, tmp_path), TransformersTrainer(shape, windows, tmp_path)
    training_loop.block(), transformers_trainer.block()  # warm up caches and allocators
    pairs = np.array([(training_loop.block(), transformers_trainer.block()) for _ in range(BLOCKS)])
    (mine, by_cpu), (trainer, trainer_by_cpu) = TOKENS / np.median(pairs, axis=0)
    each = ", ".join(f"{ratio:.2f}" for ratio in sorted(pairs[:, 1, 1] / pairs[:, 0, 1]))
    print(
        f"\n{shape.width}/{shape.layers}/{shape.heads}/{shape.feed_forward}, vocabulary {VOCABULARY}, {BATCH} x {LENGTH} tokens per step, "
        f"one thread: training loop {mine:,.0f} tokens/s, transformers.Trainer {trainer:,.0f} tokens/s, ratio {mine / trainer:.2f}; "
        f"by CPU time {by_cpu:,.0f} and {trainer_by_cpu:,.0f}, ratio {by_cpu / trainer_by_cpu:.2f} (pairs {each})"
    )
