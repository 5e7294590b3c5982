"""Trained ternary grid: zero, one positive and one negative value; their ratio is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit
from trimtab.quant.grids.levels import LARGEST, Levels, unshifted
from trimtab.quant.grids.ternary import magnitude


@dataclass(frozen=True)
class TrainedTernary(Levels):
    """`value = scale · {−n, 0, p}`: integers of at most 127, the same for all rows; one scale a row.

    Source: Zhu et al. 2017, "Trained Ternary Quantization", section 4.1: two trained scales a layer. Here their larger
    one is the scale and their ratio is rounded to a 127th; a value goes to the nearest one.
    """

    bits: int = 2
    saturates = False

    def __post_init__(self) -> None:
        if self.bits != 2:
            raise ConfigError(f"grid 'trained_ternary': bits must be 2, got {self.bits}")

    def fit(self, values: Tensor) -> Fit:
        """The ternary scales of the rows of `values` [rows, n], then the best magnitude on each side for all rows."""
        even = unshifted(magnitude(values.abs())).scale
        rows = (values / even[:, None]).reshape(1, -1)
        sides = torch.cat([magnitude(side.clamp(min=0)) for side in (-rows, rows)])
        largest = sides.max()
        sides = torch.where(largest > 0, sides / largest, torch.ones_like(sides)).mul(LARGEST).round().clamp(min=1)
        table = torch.stack([-sides[0], torch.zeros_like(sides[0]), sides[1]])
        return unshifted(even * torch.where(largest > 0, largest, torch.ones_like(largest)) / LARGEST, table)

    def tied(self, table: Tensor) -> Tensor:
        """A negative value, zero, a positive value."""
        return torch.stack([table[0].clamp(self.low, -1), torch.zeros_like(table[1]), table[2].clamp(1, self.high)])
