"""Affine grid: evenly spaced unsigned codes with a zero point, for values whose range is not symmetric."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit


@dataclass(frozen=True)
class Affine:
    """`value = scale · (code − zero_point)`, codes 0 … 2^bits − 1; zero is always representable.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", eq. 1.
    """

    bits: int = 8
    signed = False
    zero = uniform = saturates = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ConfigError(f"grid 'affine': bits must be from 1 to 16, got {self.bits}")

    @property
    def low(self) -> int:
        """The smallest integer."""
        return 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return 2**self.bits - 1

    def fit(self, values: Tensor) -> Fit:
        """Min–max parameters of each row of `values` [rows, n]: scale [rows] > 0, zero_point [rows] (integers)."""
        return self.fit_range(values.amin(1), values.amax(1))

    def fit_range(self, low: Tensor, high: Tensor) -> Fit:
        """Parameters that cover [low, high] and zero; a range of width zero gets scale 1."""
        low, high = low.clamp(max=0), high.clamp(min=0)
        width = (high - low) / self.high
        scale = torch.where(width > torch.finfo(torch.float32).tiny, width, torch.ones_like(width))
        return Fit(scale, (-low / scale).round().clamp(self.low, self.high))

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """Codes of `values` [rows, n], as integers in float; ties to even."""
        return ((values / fit.scale[:, None]).round() + fit.zero_point[:, None]).clamp(self.low, self.high)

    def integers(self, codes: Tensor, fit: Fit) -> Tensor:
        """A code is its integer."""
        return codes

    def decode(self, codes: Tensor, fit: Fit) -> Tensor:
        """Values of `codes` [rows, n]."""
        return (codes - fit.zero_point[:, None]) * fit.scale[:, None]
