"""Ternary grid: −1, 0 or 1, times a scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit
from trimtab.quant.grids.levels import Levels, unshifted


@dataclass(frozen=True)
class Ternary(Levels):
    """`value = scale · {−1, 0, 1}`; the scale is the one of least squared error.

    Source: Li & Liu 2016, "Ternary Weight Networks", eq. 5: there the threshold 0.7 · mean |w| stands for the solution,
    here it is found by sorting. A value goes to the nearest one: the threshold of the solution is half its scale.
    """

    bits: int = 2
    saturates = False

    def __post_init__(self) -> None:
        if self.bits != 2:
            raise ConfigError(f"grid 'ternary': bits must be 2, got {self.bits}")

    @property
    def levels(self) -> tuple[int, ...]:
        """−1, 0, 1."""
        return -1, 0, 1

    def fit(self, values: Tensor) -> Fit:
        """The scale [rows] of least squared error for each row of `values` [rows, n]; a row of zeros gets 1."""
        return unshifted(magnitude(values.abs()))


def magnitude(sizes: Tensor) -> Tensor:
    """The a [rows] for which sizes [rows, n] >= 0, each put to 0 or a, lose least in squares.

    With the k largest put to a, the best a is their mean, and k has the largest (sum of them)² / k.
    """
    largest = sizes.sort(1, descending=True).values.double()
    sums = largest.cumsum(1)
    counts = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
    best = (sums / counts.sqrt()).argmax(1, keepdim=True)
    return (sums.gather(1, best) / (best + 1)).squeeze(1).to(sizes.dtype)
