"""Rounding up or down learned for all weights of a layer at once, through a soft choice that hardens."""

import torch
from torch import Tensor

STEPS = 500
_RATE = 0.05
_STRETCH = 1.2
_WARM_UP = 0.2
"""Share of the steps in which nothing pushes choices to an end."""

_SHARPNESS = (20.0, 2.0)
_PUSH = 1.0
"""Of the term that hardens choices, when the error of plain rounding counts as 1."""


def adaround(weight: Tensor, gram: Tensor, cross: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """For every entry of `weight` [groups, m, n] its neighbour `below` or `above`, so that mean ‖y − Wx‖² is small.

    The choice is h(v) = clip(1.2 · sigmoid(v) − 0.1, 0, 1), from the entry's place between its neighbours, learned with
    Adam; Σ 1 − |2h − 1|^β with β from 20 to 2 drives it to 0 or 1. The error is computed from the moments, so no data
    are needed. Never worse than the nearer neighbour of each entry.
    Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", eq. 21 to 25.
    """
    between = above - below
    share = torch.where(between > 0, (weight - below) / between, 0.5).clamp(0.01, 0.99)
    nearest = torch.where(share >= 0.5, above, below)
    free = torch.linalg.solve(gram, cross.mT).mT

    def error(values: Tensor) -> Tensor:
        away = values - free
        return ((away @ gram) * away).sum()

    unit = error(nearest)
    if not unit > 0:
        return nearest
    choice = torch.logit((share + (_STRETCH - 1) / 2) / _STRETCH).requires_grad_(True)
    optimizer = torch.optim.Adam([choice], lr=_RATE)
    with torch.enable_grad():
        for step in range(STEPS):
            up = _share(choice)
            loss = error(below + up * between) / unit
            progress = (step / STEPS - _WARM_UP) / (1 - _WARM_UP)
            if progress > 0:
                sharpness = _SHARPNESS[0] + (_SHARPNESS[1] - _SHARPNESS[0]) * progress
                loss = loss + _PUSH * (1 - (2 * up - 1).abs() ** sharpness).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = torch.where(_share(choice.detach()) >= 0.5, above, below)
    return learned if error(learned) < unit else nearest


def _share(choice: Tensor) -> Tensor:
    """How far up, 0..1."""
    return (_STRETCH * choice.sigmoid() - (_STRETCH - 1) / 2).clamp(0, 1)
