"""Everything that was seen."""

import torch
from torch import Tensor

from trimtab.quant.grids import UniformGrid
from trimtab.quant.ranges.contract import Range


class MinMax:
    """The least and the largest value over all batches; the order of the batches does not matter.

    Nothing is clipped, and one outlier widens every step.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3 (for weights); the plainest rule for activations too.
    """

    def __init__(self) -> None:
        self._range: Range | None = None

    def see(self, x: Tensor) -> None:
        """Widen the range."""
        low, high = (end.float().reshape(1) for end in x.aminmax())
        if self._range is not None:
            low, high = torch.minimum(self._range.low, low), torch.maximum(self._range.high, high)
        self._range = Range(low, high)

    def range(self, grid: UniformGrid) -> Range:
        """The same for every grid."""
        assert self._range is not None
        return self._range
