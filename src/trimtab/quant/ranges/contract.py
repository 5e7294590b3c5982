"""What an estimator of ranges is: it sees values once, batch by batch, and then says what a grid should cover."""

from typing import NamedTuple, Protocol

from torch import Tensor

from trimtab.quant.grids import UniformGrid


class Range(NamedTuple):
    """Least and largest value to be covered, [1] each, low <= high."""

    low: Tensor
    high: Tensor


class RangeEstimator(Protocol):
    """Made for one tensor. `see` each batch (finite, not empty), then ask for the `range` that suits a grid.

    Memory does not grow with the batches.
    """

    def see(self, x: Tensor) -> None: ...
    def range(self, grid: UniformGrid) -> Range: ...
