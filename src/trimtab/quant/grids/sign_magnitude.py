"""Sign–magnitude grid: evenly spaced integers whose code is a sign bit and magnitude bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.quant.grids.contract import Fit
from trimtab.quant.grids.symmetric import Symmetric


@dataclass(frozen=True)
class SignMagnitude(Symmetric):
    """`value = scale · (−1)^sign · magnitude`; the code is `sign · 2^(bits−1) + magnitude`, and −0 is never written.

    The values are those of the symmetric grid. Small weights have codes with few ones, whatever their sign: in two's
    complement a small negative weight has many.
    """

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ConfigError(
                f"grid 'sign_magnitude': bits must be from 2 to 16, got {self.bits}; 1 bit is a sign only"
            )

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """Codes of `values` [rows, n], 0 … 2^bits − 1, as integers in float; ties to even."""
        integers = super().encode(values, fit)
        return integers.abs() + (integers < 0) * (self.high + 1)

    def integers(self, codes: Tensor, fit: Fit) -> Tensor:
        """The integers that `codes` name."""
        return torch.where(codes > self.high, self.high + 1 - codes, codes)

    def decode(self, codes: Tensor, fit: Fit) -> Tensor:
        """Values of `codes` [rows, n]."""
        return self.integers(codes, fit) * fit.scale[:, None]
