"""The typical batch: a moving average of each batch's minimum and maximum."""

import torch
from torch import Tensor

from trimtab.quant.grids import UniformGrid
from trimtab.quant.ranges.contract import Range

_DECAY = 0.9


class MovingAverage:
    """Σ wᵢ · (minᵢ, maxᵢ) over batches i = 1 … n, with weights wᵢ in proportion to 0.9^(n − i).

    One batch with an outlier moves the range by its weight only. The last batches count most: of many, the last has
    weight 0.1 and the last ten 0.65, so the order of the batches matters as far as their extremes differ. So does
    their size, for the maximum of more rows is larger.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3.1; the weights are divided by their sum, as Adam does (Kingma & Ba 2015, section 3), so that
    the first batch is one among others.
    """

    def __init__(self) -> None:
        self._weights = 0.0
        self._sums: Tensor | None = None

    def see(self, x: Tensor) -> None:
        """Move the average towards the extremes of `x`."""
        ends = torch.stack(x.aminmax()).double()
        self._sums = ends if self._sums is None else _DECAY * self._sums + ends
        self._weights = _DECAY * self._weights + 1

    def range(self, grid: UniformGrid) -> Range:
        """The same for every grid."""
        assert self._sums is not None
        low, high = (self._sums / self._weights).float().split(1)
        return Range(low, high)
