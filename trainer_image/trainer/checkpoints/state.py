"""A training state as files and back. The checkpoint is the export: nothing is written twice.

`train` publishes and takes up states with it, evaluation loads models. `config.json` and `model.safetensors` are what
`transformers.LlamaForCausalLM.from_pretrained` reads, `optimizer.safetensors` holds the moments, and what is small stands in the
manifest as the checkpoint's state.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from orchestrator.contract.identity import decimal
from orchestrator.contract.tasks import Shape
from orchestrator.errors import Damaged
from orchestrator.store import Store, checkpoints
from orchestrator.store.leases import Lease
from trainer.model.transformer import Model, from_llama, to_llama
from trainer.training import optimizer as moments

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
MODEL_FILES: Final = (CONFIG, WEIGHTS)
"""What a model is loaded from; the optimizer's file is twice as large."""

LOSSES_KEPT: Final = 10
"""A task's `loss` is the mean over so many last steps; they travel with the state, so that no restart changes it."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a trajectory is, apart from its tensors. `token_hash`: h = SHA-256(h + ids of the step), from 32 zero bytes.

    `skipped` steps had a loss or gradient that was no number, the last `skipped_in_row` of them without a good one between.
    """

    step: int = 0
    tokens: int = 0
    token_hash: str = "00" * 32
    skipped: int = 0
    skipped_in_row: int = 0
    losses: tuple[float, ...] = field(default=())

    def after_loss(self, loss: float) -> "Position":
        return replace(self, losses=(*self.losses, loss)[-LOSSES_KEPT:], skipped_in_row=0)


@dataclass(slots=True)
class State:
    """A point of a trajectory: all that a step reads and changes.

    `fits`: sequences of a forward pass that the memory was found to hold, 0 while all did. Of this process alone: no checkpoint has it.
    """

    model: Model
    optimizer: AdamW
    position: Position
    fits: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """What the config of an export says beyond the shape: how many tokens a window has, and which one ends a document."""

    context_length: int
    end_of_text: int


def publish(store: Store, lease: Lease, state: State, use: Use, cache: Path) -> None:
    """Keep the state in the store. Raises LeaseLost when this attempt was overtaken."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=cache) as folder:
        weights, states = Path(folder) / WEIGHTS, Path(folder) / OPTIMIZER
        save_file(_on_cpu(dict(to_llama(state.model))), weights, metadata={"format": "pt"})
        save_file(_on_cpu(dict(moments.tensors(state.model, state.optimizer))), states)
        files: dict[str, Path | bytes] = {CONFIG: config(state.model.shape, use), WEIGHTS: weights, OPTIMIZER: states}
        checkpoints.publish(store, lease, state.position.tokens, files, asdict(state.position))


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def config(shape: Shape, use: Use) -> bytes:
    """`config.json` of transformers 5 for this shape."""
    content = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.width // shape.heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": float(shape.norm_eps),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(shape.rope_theta)},
        "max_position_embeddings": use.context_length,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": use.end_of_text,
        "eos_token_id": use.end_of_text,
        "pad_token_id": None,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def shape_of(files: Mapping[str, Path]) -> Shape:
    """The shape in a checkpoint's config. Raises Damaged when it holds none."""
    try:
        content: dict[str, Any] = json.loads(files[CONFIG].read_bytes())
        return Shape(
            width=content["hidden_size"],
            layers=content["num_hidden_layers"],
            heads=content["num_attention_heads"],
            feed_forward=content["intermediate_size"],
            vocabulary=content["vocab_size"],
            tied=content["tie_word_embeddings"],
            rope_theta=int(content["rope_parameters"]["rope_theta"]),
            norm_eps=decimal(content["rms_norm_eps"]),
        )
    except (KeyError, ValueError) as problem:
        raise Damaged(f"the checkpoint's {CONFIG} does not describe a model of ours ({type(problem).__name__}: {problem})") from problem


def load_model(files: Mapping[str, Path], device: torch.device) -> Model:
    """The model of a checkpoint, on `device`. Raises Damaged when its files do not fit together."""
    try:
        return from_llama(shape_of(files), load_file(files[WEIGHTS])).to(device)
    except (KeyError, RuntimeError) as problem:
        raise Damaged(f"the checkpoint's {WEIGHTS} does not fit its {CONFIG}: {problem}") from problem


def load_optimizer(files: Mapping[str, Path], model: Model, optimizer: AdamW) -> None:
    """Give `optimizer` the moments of a checkpoint. Raises Damaged when they are not those of `model`."""
    try:
        moments.load(model, optimizer, load_file(files[OPTIMIZER]))
    except (KeyError, RuntimeError) as problem:
        raise Damaged(f"the checkpoint's {OPTIMIZER} does not fit its {WEIGHTS}: {problem}") from problem


def position_of(state: Mapping[str, Any]) -> Position:
    """Inverse of what `publish` keeps as state. Raises Damaged."""
    try:
        return Position(**{**state, "losses": tuple(state["losses"])})
    except (KeyError, TypeError) as problem:
        raise Damaged(f"the state of a checkpoint is not one of ours: {problem}") from problem
