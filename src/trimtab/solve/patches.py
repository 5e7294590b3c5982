"""A convolution as a matrix product: the rows that it reads."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    positions: Tensor,
    groups: int = 1,
) -> Tensor:
    """What a convolution reads at some of its output positions: [groups, rows · positions, channels a group · kernel].

    `x` [rows, channels, …]; `padding` (before, after) of every spatial dimension; `positions` count through the output
    map in row-major order. Columns are in the order of the weight's entries.
    """
    windows = F.pad(x, [side for pair in reversed(padding) for side in pair])
    for at, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        windows = windows.unfold(at, (size - 1) * apart + 1, step)
        windows = windows[..., ::apart]
    rank = len(kernel)
    index: Any = unravel(positions.to(x.device), windows.shape[2 : 2 + rank])
    everything: Any = slice(None)
    chosen = windows[(everything, everything, *index)]  # [rows, channels, positions, kernel…]
    rows, channels = x.shape[:2]
    parted = chosen.reshape(rows, groups, channels // groups, len(positions), -1)
    return parted.permute(1, 0, 3, 2, 4).reshape(groups, rows * len(positions), -1)


def unravel(positions: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Row-major positions in a map as one index for each of its dimensions."""
    out = []
    for size in reversed(shape):
        out.append(positions % size)
        positions = positions // size
    return tuple(reversed(out))
