"""Symmetric grid: evenly spaced signed codes around zero, for weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit


@dataclass(frozen=True)
class Symmetric:
    """`value = scale · code`, codes −(2^(bits−1) − 1) … 2^(bits−1) − 1.

    The most negative code is left out, so that codes can change their sign: a negative BatchNorm gamma folds exactly.
    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", section 2.2.
    """

    bits: int = 8
    signed = True
    zero = uniform = saturates = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ConfigError(
                f"grid 'symmetric': bits must be from 2 to 16, got {self.bits}; use another grid for 1 bit"
            )

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -self.high

    @property
    def high(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) - 1)

    def fit(self, values: Tensor) -> Fit:
        """Max-magnitude parameters of each row of `values` [rows, n]: scale [rows] > 0, zero_point [rows] of zeros."""
        return self.fit_range(values.amin(1), values.amax(1))

    def fit_range(self, low: Tensor, high: Tensor) -> Fit:
        """Parameters that cover [low, high]; an all-zero range gets scale 1."""
        step = torch.maximum(low.abs(), high.abs()) / self.high
        scale = torch.where(step > torch.finfo(torch.float32).tiny, step, torch.ones_like(step))
        return Fit(scale, torch.zeros_like(scale))

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """Codes of `values` [rows, n], as integers in float; ties to even."""
        return (values / fit.scale[:, None]).round().clamp(self.low, self.high)

    def integers(self, codes: Tensor, fit: Fit) -> Tensor:
        """A code is its integer."""
        return codes

    def decode(self, codes: Tensor, fit: Fit) -> Tensor:
        """Values of `codes` [rows, n]."""
        return codes * fit.scale[:, None]
