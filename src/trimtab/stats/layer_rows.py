"""What a layer reads and what it shall write, as rows: moments of both networks at the same place."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from trimtab.graph.layers import OPERATORS
from trimtab.graph.values import bind
from trimtab.solve import patches

SAMPLES = 2**17
"""Rows of a layer's least squares, at most: positions are drawn at random where the maps have more."""


def rows_read(node: Node, x: Tensor, kernel: tuple[int, ...], positions: Tensor) -> Tensor:
    """What a layer's weight multiplies at these output positions, [groups, rows, inputs]."""
    if OPERATORS[node.target] == "linear":
        return rows_written(x, -1, positions)[None]
    given = bind(node)
    each = {name: _each(given[name], len(kernel)) for name in ("stride", "dilation")}
    return patches(
        _wide(x), kernel, **each, padding=_padding(given, kernel), positions=positions, groups=given["groups"]
    )


def rows_written(y: Tensor, channels: int, positions: Tensor) -> Tensor:
    """Values of a layer's output at these positions of every row, [rows · positions, channels]."""
    y = _wide(y).movedim(channels, -1)
    if y.dim() == 2:
        return y
    return y.flatten(1, -2)[:, positions.to(y.device)].flatten(0, 1)


def positions_of(values: list[Tensor], channels: int, seed: int, samples: int = SAMPLES) -> Tensor:
    """Positions of a map to look at in every row: all, or as many drawn at random as give `samples` rows."""
    rows = sum(value.shape[0] for value in values)
    size = values[0].movedim(channels, -1)[0].flatten(0, -2).shape[0] if values[0].dim() > 2 else 1
    wanted = min(size, max(1, -(-samples // rows)))
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:wanted].sort().values


def _padding(given: dict[str, Any], kernel: tuple[int, ...]) -> list[tuple[int, int]]:
    dilation = _each(given["dilation"], len(kernel))
    if given["padding"] == "valid":
        return [(0, 0)] * len(kernel)
    if given["padding"] == "same":
        total = [(size - 1) * apart for size, apart in zip(kernel, dilation, strict=True)]
        return [(n // 2, n - n // 2) for n in total]
    return [(n, n) for n in _each(given["padding"], len(kernel))]


def _each(value: int | list[int], rank: int) -> list[int]:
    """One number for every spatial dimension."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * rank if len(numbers) == 1 else numbers


def _wide(x: Tensor) -> Tensor:
    """Values in float32 or float64."""
    return x if x.dtype == torch.float64 else x.float()
