"""AdamW with a task's settings, its state as named tensors, and the clipped update.

`run` creates the optimizer, `step` updates with it, and `checkpoints.state` saves it. Weight decay is decoupled (Loshchilov and Hutter
2019, arXiv:1711.05101) and has two groups: the embedding (a tied head is the same tensor) and all other parameters.
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
    """Return an AdamW without moments; the first step or `load` creates them. The learning rate is set at each step."""
    rest = [parameter for parameter in model.parameters() if parameter is not model.embedding]
    groups = [
        {"params": [model.embedding], "weight_decay": float(settings.embedding_decay)},
        {"params": rest, "weight_decay": float(settings.weight_decay)},
    ]
    return AdamW(groups, lr=0.0, betas=(float(settings.beta1), float(settings.beta2)), eps=float(settings.eps), fused=True)


def clear(optimizer: AdamW) -> None:
    """Set all gradients to None."""
    for parameter in _parameters(optimizer):
        parameter.grad = None


def grad_norm(optimizer: AdamW) -> Tensor:
    """Return the global norm of all gradients, a scalar on their device."""
    each = torch._foreach_norm(gradients_of(optimizer))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(each))
    return norm


def update(optimizer: AdamW, rate: float, norm: float, clip: float) -> None:
    """Make one AdamW step at learning rate `rate`, with gradients of norm `norm` clipped to a norm of `clip`."""
    if norm > clip:
        torch._foreach_mul_(gradients_of(optimizer), clip / norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def tensors(model: Model, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """Yield the moments of every parameter as `parameter.moment`, and its number of updates; nothing before the first update."""
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            yield from ((f"{name}.{moment}", state[moment]) for moment in _MOMENTS)
            yield f"{name}.{_STEP}", state[_STEP].reshape(1)


def load(model: Model, optimizer: AdamW, saved: Mapping[str, Tensor]) -> None:
    """Load the tensors that `tensors` yields. Raises KeyError if moments are missing."""
    for name, parameter in model.named_parameters() if saved else ():
        state = optimizer.state[parameter]
        state[_STEP] = saved[f"{name}.{_STEP}"].reshape(()).to(parameter.device, copy=True)
        for moment in _MOMENTS:
            state[moment] = torch.empty_like(parameter, requires_grad=False).copy_(saved[f"{name}.{moment}"])


def moments(optimizer: AdamW) -> list[Tensor]:
    """Return the state tensors of every parameter in order; missing state is created as zeros."""
    for parameter in _parameters(optimizer):
        state = optimizer.state[parameter]
        if not state:
            state[_STEP] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {moment: torch.zeros_like(parameter, requires_grad=False) for moment in _MOMENTS}
    return [optimizer.state[parameter][name] for parameter in _parameters(optimizer) for name in (_STEP, *_MOMENTS)]


def _parameters(optimizer: AdamW) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(optimizer: AdamW) -> list[Tensor]:
    """Return the gradients that are not None, in the order of the parameters."""
    return [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
