"""What grids of unevenly spaced integers share: a code is the index in an ascending table of integers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.quant.grids.contract import Fit

LARGEST = 127
"""What a table of the data's own may hold: int8, symmetric."""


@dataclass(frozen=True)
class Levels:
    """Base: a subclass gives `levels`, or a `fit` with a table. Zero points are 0."""

    bits: int
    signed = True
    uniform = False
    zero = saturates = True

    @property
    def levels(self) -> tuple[int, ...]:
        """The integers, ascending; none where the data decides, and the fit has a table."""
        return ()

    @property
    def low(self) -> int:
        """The smallest integer that there is, or that a table may have."""
        return self.levels[0] if self.levels else -LARGEST

    @property
    def high(self) -> int:
        """The largest integer that there is, or that a table may have."""
        return self.levels[-1] if self.levels else LARGEST

    def fit(self, values: Tensor) -> Fit:
        """Max-magnitude parameters of each row of `values` [rows, n]: scale [rows] > 0; a row of zeros gets scale 1."""
        return unshifted(values.abs().amax(1) / self.high)

    def encode(self, values: Tensor, fit: Fit) -> Tensor:
        """Codes of the nearest values, as integers in float; halfway between two the smaller one."""
        table = self._table(fit, values)
        return torch.bucketize(values / fit.scale[:, None], (table[1:] + table[:-1]) / 2).to(values.dtype)

    def integers(self, codes: Tensor, fit: Fit) -> Tensor:
        """The integers that `codes` name, in float."""
        return self._table(fit, fit.scale)[codes.long()]

    def decode(self, codes: Tensor, fit: Fit) -> Tensor:
        """Values of `codes` [rows, n]."""
        return self.integers(codes, fit) * fit.scale[:, None]

    def _table(self, fit: Fit, like: Tensor) -> Tensor:
        if fit.table is not None:
            return fit.table
        return torch.tensor(self.levels, dtype=like.dtype, device=like.device)


def unshifted(scale: Tensor, table: Tensor | None = None) -> Fit:
    """A fit without zero points; a scale that is not above float32's smallest normal number becomes 1."""
    scale = torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    return Fit(scale, torch.zeros_like(scale), table)


def mirrored(magnitudes: tuple[int, ...]) -> tuple[int, ...]:
    """Zero, and these integers above zero with both signs."""
    return (*(-m for m in reversed(magnitudes)), 0, *magnitudes)
