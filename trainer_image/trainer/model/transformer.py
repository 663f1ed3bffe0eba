"""The decoder that a study trains: the Llama architecture, with conversion to and from Llama's tensor names.

Training and `export` build it from a task's `Shape` or from a checkpoint; evaluation computes logits with it. Query, key and value are
one matrix, as are gate and up, and the pairs of channels that rotate together are adjacent. `to_llama` and `from_llama` convert exactly
to and from the tensors of `transformers.LlamaForCausalLM`.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch convention

from orchestrator.contract.tasks import FromInitialisation, Shape
from trainer.model.layers import rms_norm, rotated_heads, swiglu


class Layer(nn.Module):
    """Pre-norm decoder layer: attention and SwiGLU, each after an RMSNorm and with a residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.eps = shape.width, float(shape.norm_eps)
        self.heads, self.head = shape.heads, shape.width // shape.heads
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.out = nn.Parameter(torch.empty(width, width))
        self.feed_forward_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Parameter(torch.empty(2 * shape.feed_forward, width))
        self.down = nn.Parameter(torch.empty(width, shape.feed_forward))

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Return the layer's output (batch * T, d). x (batch * T, d), one row per token; rotations (T, 1, 1, head / 2) complex."""
        qkv = F.linear(rms_norm(x, self.attention_norm, self.eps), self.qkv).view(-1, len(rotations), 3, self.heads, self.head)
        q, k, v = (heads.transpose(1, 2) for heads in rotated_heads(qkv, rotations))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(attended, self.out)
        return x + F.linear(swiglu(F.linear(rms_norm(x, self.feed_forward_norm, self.eps), self.gate_up)), self.down)


class Model(nn.Module):
    """Maps token ids (batch, T) to hidden states (batch, T, d), or to logits with `logits`. Weights are not initialised."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocabulary, shape.width))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.untied_head = None if shape.tied else nn.Parameter(torch.empty(shape.vocabulary, shape.width))
        self._rotations = torch.empty(0, dtype=torch.complex64)

    @property
    def head(self) -> nn.Parameter:
        return self.embedding if self.untied_head is None else self.untied_head

    def forward(self, ids: Tensor) -> Tensor:
        x, rotations = F.embedding(ids.flatten(), self.embedding), self._rotations_up_to(ids.shape[1], ids.device)
        for layer in self.layers:
            x = layer(x, rotations)
        return rms_norm(x, self.norm, float(self.shape.norm_eps)).view(*ids.shape, -1)

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits (batch, T, vocabulary) in float32 for ids (batch, T)."""
        return F.linear(self(ids), self.head).float()

    def _rotations_up_to(self, length: int, device: torch.device) -> Tensor:
        if self._rotations.shape[0] < length or self._rotations.device != device:
            self._rotations = _rotary_factors(self.shape, length).to(device)
        return self._rotations[:length]


def _rotary_factors(shape: Shape, length: int) -> Tensor:
    """Return rotations (length, 1, 1, head / 2) complex, computed in float32 as transformers does."""
    head = shape.width // shape.heads
    frequencies = 1.0 / (shape.rope_theta ** (torch.arange(0, head, 2, dtype=torch.int64).float() / head))
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return torch.complex(angles.cos(), angles.sin())[:, None, None, :]


def initialised(start: FromInitialisation) -> Model:
    """Return a model on the CPU with normally distributed weights and norms of one.

    Tensors are drawn in order from one seeded CPU generator, which is serial, so the result does not depend on device or number of threads.
    """
    model = Model(start.shape)
    generator = torch.Generator().manual_seed(start.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, float(start.deviation), generator=generator)
    return model


def to_llama(model: Model) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every parameter of `LlamaForCausalLM`; a tied head is not repeated."""
    heads = model.shape.heads
    yield "model.embed_tokens.weight", model.embedding.detach()
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        name = f"model.layers.{number}."
        q, k, v = layer.qkv.detach().chunk(3)
        gate, up = layer.gate_up.detach().chunk(2)
        yield name + "self_attn.q_proj.weight", _halves(q, heads)
        yield name + "self_attn.k_proj.weight", _halves(k, heads)
        yield name + "self_attn.v_proj.weight", v
        yield name + "self_attn.o_proj.weight", layer.out.detach()
        yield name + "mlp.gate_proj.weight", gate
        yield name + "mlp.up_proj.weight", up
        yield name + "mlp.down_proj.weight", layer.down.detach()
        yield name + "input_layernorm.weight", layer.attention_norm.detach()
        yield name + "post_attention_layernorm.weight", layer.feed_forward_norm.detach()
    yield "model.norm.weight", model.norm.detach()
    if model.untied_head is not None:
        yield "lm_head.weight", model.untied_head.detach()


def from_llama(shape: Shape, tensors: Mapping[str, Tensor]) -> Model:
    """Return the model of tensors from `to_llama`. Raises KeyError for a missing tensor, RuntimeError for a wrong shape."""
    model = Model(shape)
    with torch.no_grad():
        model.embedding.copy_(tensors["model.embed_tokens.weight"])
        model.norm.copy_(tensors["model.norm.weight"])
        if model.untied_head is not None:
            model.untied_head.copy_(tensors["lm_head.weight"])
        for number, layer in enumerate(model.layers):
            assert isinstance(layer, Layer)
            _load_layer(layer, shape.heads, {key: tensors[f"model.layers.{number}.{key}.weight"] for key in _LAYER_NAMES})
    return model


_LAYER_NAMES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def _load_layer(layer: Layer, heads: int, tensors: Mapping[str, Tensor]) -> None:
    q, k, v = (tensors[f"self_attn.{part}_proj"] for part in "qkv")
    layer.qkv.copy_(torch.cat((_pairs(q, heads), _pairs(k, heads), v)))
    layer.out.copy_(tensors["self_attn.o_proj"])
    layer.gate_up.copy_(torch.cat((tensors["mlp.gate_proj"], tensors["mlp.up_proj"])))
    layer.down.copy_(tensors["mlp.down_proj"])
    layer.attention_norm.copy_(tensors["input_layernorm"])
    layer.feed_forward_norm.copy_(tensors["post_attention_layernorm"])


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Move rows 2j, 2j + 1 of each head to rows j, j + head / 2: Llama rotates the first half of a head with the second."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _pairs(rows: Tensor, heads: int) -> Tensor:
    return rows.reshape(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
