"""Cross-entropy and z-loss of the head in cache-sized chunks; gradients are computed in the forward pass.

`training.step` calls it once per micro-batch. A step never materialises all logits: they would take 2 MB per step on a CPU at a
vocabulary of 1,024, and 800 MB on a GPU at 50,304 and 4,096 tokens, several times over.
"""

# ruff: noqa: ANN401 - torch has no type for the `ctx` of a Function
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function

# Logits per chunk: 512 KiB of float32 fit into a core's L2 cache, and a GPU needs large matrix products. At least 64 rows: products of
# thinner matrices spend their time reading the head.
_CHUNK: Final = {"cpu": 2**17, "cuda": 2**27}
_MIN_ROWS: Final = 64


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, z_loss: float, tokens: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)
        matrix, rows = head.to(dtype), max(_MIN_ROWS, _CHUNK.get(hidden.device.type, 2**17) // head.shape[0])
        nll_sum, squared_log_z = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden.shape[0], rows):
            chunk, labels = hidden[start : start + rows].to(dtype), targets[start : start + rows, None]
            logits = (chunk @ matrix.t()).float()
            log_probs = torch.log_softmax(logits, -1)
            nll = log_probs.gather(1, labels).neg_()
            nll_sum += nll.sum()
            grad_logits = log_probs.exp_()
            if z_loss:
                log_z = logits.gather(1, labels) + nll
                squared_log_z += log_z.square().sum()
                grad_logits *= log_z.mul_(2 * z_loss).add_(1)
            grad_logits = grad_logits.scatter_add_(1, labels, nll.new_full((1, 1), -1.0).expand_as(labels)).to(dtype)
            grad_hidden[start : start + rows] = grad_logits @ matrix
            if dtype == head.dtype:
                grad_head.addmm_(grad_logits.t(), chunk)
            else:
                grad_head += grad_logits.t() @ chunk
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.tokens = tokens
        cross_entropy = nll_sum / tokens
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy + squared_log_z * (z_loss / tokens), cross_entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        scale = grad / ctx.tokens
        return grad_hidden * scale, grad_head * scale, None, None, None, None


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, z_loss: float, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the training loss with z-loss, and its cross-entropy, both in nats: sums divided by `tokens` of the whole step.

    hidden (n, d); head (vocabulary, d); targets (n,) int64. z-loss adds z_loss * log(sum(exp(logits)))^2 per token (Chowdhery et al.
    2022, arXiv:2204.02311). Logits are computed in `dtype`, everything after that in float32. Only the first result has gradients.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        both: tuple[Tensor, Tensor] = _HeadLoss.apply(hidden, head, targets, z_loss, tokens, dtype)  # type: ignore[no-untyped-call]
    return both
