"""Optimizer and learning-rate schedule, and their state as named tensors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.graph import Network
from trimtab.recover.settings import Settings

_BETA2 = 0.999
_RISE, _MOMENTUM_SWING = 25.0, 0.1


def parameter_groups(network: Network, settings: Settings) -> list[dict[str, Any]]:
    """Weights with decay; norms, biases and gates without; quantization scales without and at their own rate.

    Scales and gates are the parameters of inserted modules (submodules with `elementwise = True`): scales are those
    that it names as `learned`, or else its `scale`. Scales of a module that `decays` have decay too.
    """
    inserted = [module for module in network.module.modules() if _is_inserted(module)]
    scales = {id(p): _decays(module) for module in inserted for p in _scales(module)}
    gates = {id(parameter) for module in inserted for parameter in module.parameters()} - scales.keys()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [p for p in trained if p.dim() > 1 and id(p) not in scales.keys() | gates]
    others = [p for p in trained if (p.dim() <= 1 or id(p) in gates) and id(p) not in scales]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay, "rate": 1.0, "scales": False},
        {"params": others, "weight_decay": 0.0, "rate": 1.0, "scales": False},
        *(
            {
                "params": [p for p in trained if scales.get(id(p)) is decays],
                "weight_decay": settings.weight_decay if decays else 0.0,
                "rate": settings.scale_rate,
                "scales": True,
            }
            for decays in (False, True)
        ),
    ]
    return [group for group in groups if group["params"]]


def _scales(module: nn.Module) -> list[nn.Parameter]:
    return [getattr(module, name) for name in getattr(module, "learned", ("scale",)) if hasattr(module, name)]


def _decays(module: nn.Module) -> bool:
    return getattr(module, "decays", False) is True


def _is_inserted(module: nn.Module) -> bool:
    return getattr(module, "elementwise", False) is True


def build_optimizer(network: Network, settings: Settings, beside: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, fused; for the network and for what is trained `beside` it, as weights."""
    groups = parameter_groups(network, settings)
    if beside:
        decay = settings.weight_decay
        groups.append({"params": list(beside), "weight_decay": decay, "rate": 1.0, "scales": False})
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(settings.momentum, _BETA2), fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.peak_rate, momentum=settings.momentum, nesterov=nesterov, fused=True)


def set_pace(optimizer: torch.optim.Optimizer, rate: float, momentum: float, *, ranges_frozen: bool) -> None:
    """Give every group the learning rate of this step, times its own factor, and the momentum; frozen scales rest."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if group["scales"] and ranges_frozen else rate * group["rate"]
        if "betas" in group:
            group["betas"] = (momentum, _BETA2)
        else:
            group["momentum"] = momentum


def rate_at(step: float, steps: int, settings: Settings) -> float:
    """Learning rate of step 0 … steps − 1; or between two of them."""
    return {"cosine": cosine_rate, "one_cycle": one_cycle_rate}[settings.rate](step, steps, settings)


def cosine_rate(step: float, steps: int, settings: Settings) -> float:
    """A linear warm-up times a cosine that falls to zero.

    Source: Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts.
    """
    warm = max(1, round(settings.warm * steps))
    return settings.peak_rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def one_cycle_rate(step: float, steps: int, settings: Settings) -> float:
    """Half a cosine up from a 25th of the peak, and half a cosine down to zero.

    Source: Smith & Topin 2018, "Super-Convergence"; cosines instead of lines, as is usual today.
    """
    warm = max(1, round(settings.warm * steps))
    if step < warm:
        start = settings.peak_rate / _RISE
        return start + (settings.peak_rate - start) * 0.5 * (1 - math.cos(math.pi * (step + 1) / warm))
    return settings.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (steps - warm + 1)))


def momentum_at(step: float, steps: int, settings: Settings) -> float:
    """Momentum of a step: constant, or in one cycle 0.1 lower at the peak of the learning rate."""
    if settings.rate == "cosine":
        return settings.momentum
    return max(0.0, settings.momentum - _MOMENTUM_SWING * one_cycle_rate(step, steps, settings) / settings.peak_rate)


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
