"""AdamW as a task asks for it, its state as named tensors, and the clipped step.

`train` builds one, `step` steps it, and `checkpoint` keeps it. Decay is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101) and has
two groups: the embedding (a tied head is the same tensor) and everything else.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import AdamW

from orchestrator.contract.tasks import Optimizer
from trainer.model.transformer import Model

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEP = "step"


def adamw(model: Model, settings: Optimizer) -> AdamW:
    """With no moments yet; they come with the first step or with `load`. The rate is set for each step."""
    rest = [parameter for parameter in model.parameters() if parameter is not model.embedding]
    groups = [
        {"params": [model.embedding], "weight_decay": float(settings.embedding_decay)},
        {"params": rest, "weight_decay": float(settings.weight_decay)},
    ]
    return AdamW(groups, lr=0.0, betas=(float(settings.beta1), float(settings.beta2)), eps=float(settings.eps), fused=True)


def clear(optimizer: AdamW) -> None:
    """Forget all gradients."""
    for parameter in _parameters(optimizer):
        parameter.grad = None


def grad_norm(optimizer: AdamW) -> Tensor:
    """Norm over all gradients together, on their device."""
    each = torch._foreach_norm(gradients_of(optimizer))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(each))
    return norm


def update(optimizer: AdamW, rate: float, norm: float, clip: float) -> None:
    """One step at `rate` with gradients scaled down to a norm of at most `clip`. `norm` is theirs."""
    if norm > clip:
        torch._foreach_mul_(gradients_of(optimizer), clip / norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def tensors(model: Model, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """Moments of every parameter under `parameter.moment`, and how many updates were made; nothing before the first."""
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            yield from ((f"{name}.{moment}", state[moment]) for moment in _MOMENTS)
            yield f"{name}.{_STEP}", state[_STEP].reshape(1)


def load(model: Model, optimizer: AdamW, kept: Mapping[str, Tensor]) -> None:
    """Inverse of `tensors`. Raises KeyError for moments that are missing."""
    for name, parameter in model.named_parameters() if kept else ():
        state = optimizer.state[parameter]
        state[_STEP] = kept[f"{name}.{_STEP}"].reshape(()).to(parameter.device, copy=True)
        for moment in _MOMENTS:
            state[moment] = torch.empty_like(parameter, requires_grad=False).copy_(kept[f"{name}.{moment}"])


def moments(optimizer: AdamW) -> list[Tensor]:
    """The state of every parameter, in their order; zeros where there was none."""
    for parameter in _parameters(optimizer):
        state = optimizer.state[parameter]
        if not state:
            state[_STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {moment: torch.zeros_like(parameter, requires_grad=False) for moment in _MOMENTS}
    return [optimizer.state[parameter][name] for parameter in _parameters(optimizer) for name in (_STEP, *_MOMENTS)]


def _parameters(optimizer: AdamW) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(optimizer: AdamW) -> list[Tensor]:
    """The gradients that there are, in the order of the parameters."""
    return [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
