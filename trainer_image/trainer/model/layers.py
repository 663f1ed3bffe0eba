"""RMSNorm, rotary embedding and SwiGLU with hand-written gradients, faster than eager torch.

`transformer` builds its layers from them. At the widths of a CPU study a step is a few hundred small operations, so the number of passes
over memory dominates: torch's composite RMSNorm, a rotation by halves and a sliced SwiGLU take about three times as many.
"""

# ruff: noqa: ANN401 - torch has no type for the `ctx` of a Function
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normalised = x * scale
        ctx.save_for_backward(normalised, scale, weight)
        return torch.mul(normalised, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normalised, scale, weight = ctx.saved_tensors
        product = grad * normalised
        projection = torch.mv(product, weight)[:, None]
        grad_x = torch.addcmul(grad * weight, normalised, projection, value=-1 / weight.numel()).mul_(scale)
        return grad_x, product.sum(0), None


class _RotatedHeads(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(rotations)
        qk = torch.view_as_real(_pairs(qkv[:, :, :2].float()) * rotations).flatten(-2).to(qkv.dtype)
        return qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2].clone()

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, None]:
        (rotations,) = ctx.saved_tensors
        grads = torch.stack((grad_q, grad_k, grad_v), dim=2)
        unrotated = _pairs(grads[:, :, :2].float()) * rotations.conj().resolve_conj()
        grads[:, :, :2].copy_(torch.view_as_real(unrotated).flatten(-2))
        return grads, None


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


class _SwiGlu(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        active = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, -1)
        torch.mul(grad, active, out=grad_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        return grads


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension. x (n, d); weight (d,)."""
    normed: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return normed


def rotated_heads(qkv: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries and keys, and values, each (batch, T, heads, head).

    qkv (batch, T, 3, heads, head), where entries 2j and 2j + 1 of a head are one pair (Su et al. 2021, arXiv:2104.09864); rotations
    (T, 1, 1, head / 2) complex: the rotation of pair j at each position.
    """
    heads: tuple[Tensor, Tensor, Tensor] = _RotatedHeads.apply(qkv, rotations)  # type: ignore[no-untyped-call]
    return heads


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up (Shazeer 2020, arXiv:2002.05202), (..., ff). gate_up (..., 2 ff), gate first."""
    product: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
    return product
