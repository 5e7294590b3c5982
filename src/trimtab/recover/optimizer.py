"""Optimizer and learning-rate schedule, and their state as named tensors."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.graph import Network
from trimtab.recover.settings import Settings


def parameter_groups(network: Network, settings: Settings) -> list[dict[str, Any]]:
    """Weights with decay, norms and biases without, and quantization scales without and at their own rate.

    Scales are the parameters of fake-quantization modules (submodules with `elementwise = True`).
    """
    scales = {id(p) for module in network.module.modules() if _fake_quantizes(module) for p in module.parameters()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [p for p in trained if id(p) not in scales]
    groups = [
        {
            "params": [p for p in weights if p.dim() > 1],
            "weight_decay": settings.weight_decay,
            "rate": 1.0,
            "scales": False,
        },
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0, "rate": 1.0, "scales": False},
        {
            "params": [p for p in trained if id(p) in scales],
            "weight_decay": 0.0,
            "rate": settings.scale_rate,
            "scales": True,
        },
    ]
    return [group for group in groups if group["params"]]


def _fake_quantizes(module: nn.Module) -> bool:
    return getattr(module, "elementwise", False) is True


def build_optimizer(network: Network, settings: Settings) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, fused."""
    groups = parameter_groups(network, settings)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.peak_rate, fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.peak_rate, momentum=settings.momentum, nesterov=nesterov, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the learning rate of this step, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def cosine_rate(step: int, steps: int, settings: Settings) -> float:
    """Learning rate of step 0 … steps − 1: a linear warm-up times a cosine that falls to zero.

    Source: Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts.
    """
    warm = max(1, round(settings.warmup * steps))
    return settings.peak_rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Clip the norm over all weights, and the norm over all scales. Returns: a scalar, finite if all gradients are."""
    weights: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        (scales if group["scales"] else weights).extend(group["params"])
    norm = nn.utils.clip_grad_norm_(weights, max_norm)
    return norm + nn.utils.clip_grad_norm_(scales, max_norm) if scales else norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A copy of the optimizer's state: "parameter name:key" to tensor."""
    return {
        f"{name}:{key}": value.detach().clone()
        for name, parameter in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` copied, laid out in memory as the parameters are."""
    optimizer.state.clear()
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(":", 1)
        parameter = names[name]
        like = (
            torch.empty_like(parameter, dtype=value.dtype)
            if value.shape == parameter.shape
            else torch.empty_like(value)
        )
        optimizer.state[parameter][key] = like.detach().copy_(value)


def trained_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Those that require a gradient, by name."""
    return {name: parameter for name, parameter in named if parameter.requires_grad}
