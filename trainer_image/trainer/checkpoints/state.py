"""Save a training state as checkpoint files and load it. The checkpoint is also the export: nothing is written twice.

Training publishes and resumes states with it, evaluation loads models. `transformers.LlamaForCausalLM.from_pretrained` reads
`config.json` and `model.safetensors`; `optimizer.safetensors` holds the moments. The position is stored in the checkpoint's manifest.
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
from orchestrator.errors import ContractError, Damaged
from orchestrator.store import Store, checkpoints
from orchestrator.store.documents import parse_object
from orchestrator.store.leases import Lease
from trainer.model.transformer import Model, from_llama, to_llama
from trainer.training import optimizer as moments

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
MODEL_FILES: Final = (CONFIG, WEIGHTS)
"""Files needed to load a model; the optimizer's file is twice as large and not needed."""

LOSSES_KEPT: Final = 10
"""Number of last steps whose mean is a task's `loss`; the state contains them, so that a restart does not change it."""


@dataclass(frozen=True, slots=True)
class Position:
    """Progress of a trajectory, without its tensors. `token_hash`: h = SHA-256(h + ids of the step), starting from 32 zero bytes.

    `skipped`: steps with a non-finite loss or gradient; `skipped_in_row`: those since the last finite step.
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
    """Training state: everything that a step reads and changes.

    `fitting_micro_batch`: largest micro-batch found to fit into memory, 0 while the whole batch fits. Not part of checkpoints.
    """

    model: Model
    optimizer: AdamW
    position: Position
    fitting_micro_batch: int = 0


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Values of an exported config.json that the shape does not contain: tokens per window and the id of the end-of-text token."""

    context_length: int
    end_of_text: int


def publish(store: Store, lease: Lease, state: State, settings: ExportSettings, cache: Path) -> None:
    """Publish the state as a checkpoint. Raises LeaseLost if a later attempt has taken over."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=cache) as folder:
        weights, states = Path(folder) / WEIGHTS, Path(folder) / OPTIMIZER
        save_file(_on_cpu(dict(to_llama(state.model))), weights, metadata={"format": "pt"})
        save_file(_on_cpu(dict(moments.tensors(state.model, state.optimizer))), states)
        files: dict[str, Path | bytes] = {CONFIG: config(state.model.shape, settings), WEIGHTS: weights, OPTIMIZER: states}
        checkpoints.publish(store, lease, state.position.tokens, files, asdict(state.position))


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def config(shape: Shape, settings: ExportSettings) -> bytes:
    """Return the `config.json` of transformers 5 for this shape."""
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
        "max_position_embeddings": settings.context_length,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": settings.end_of_text,
        "eos_token_id": settings.end_of_text,
        "pad_token_id": None,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def shape_of(files: Mapping[str, Path]) -> Shape:
    """Return the shape described by a checkpoint's config. Raises Damaged if it is invalid."""
    try:
        content = parse_object(files[CONFIG].read_bytes(), CONFIG, "the config of a checkpoint")
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
    except (KeyError, TypeError, ValueError, ContractError) as problem:
        raise Damaged(
            f"the checkpoint's {CONFIG} does not describe a model of this trainer ({type(problem).__name__}: {problem})"
        ) from problem


def load_model(files: Mapping[str, Path], device: torch.device) -> Model:
    """Return the model of a checkpoint on `device`. Raises Damaged if its weights do not match its config."""
    try:
        return from_llama(shape_of(files), load_file(files[WEIGHTS])).to(device)
    except (KeyError, RuntimeError) as problem:
        raise Damaged(f"the checkpoint's {WEIGHTS} does not match its {CONFIG}: {problem}") from problem


def load_optimizer(files: Mapping[str, Path], model: Model, optimizer: AdamW) -> None:
    """Load the moments of a checkpoint into `optimizer`. Raises Damaged if they do not match `model`."""
    try:
        moments.load(model, optimizer, load_file(files[OPTIMIZER]))
    except (KeyError, RuntimeError) as problem:
        raise Damaged(f"the checkpoint's {OPTIMIZER} does not match its {WEIGHTS}: {problem}") from problem


def position_of(state: Mapping[str, Any]) -> Position:
    """Return the position stored by `publish`. Raises Damaged if it is invalid."""
    try:
        return Position(**{**state, "losses": tuple(state["losses"])})
    except (KeyError, TypeError) as problem:
        raise Damaged(f"the checkpoint's state is not valid: {problem}") from problem
