"""L2: every weight is drawn to zero with a force that falls as it gets there."""

from typing import ClassVar

from torch import Tensor

from trimtab.prune.penalties.weights import WeightPenalty


class L2(WeightPenalty):
    """Σw² over the weights of all layers.

    Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.1.
    """

    name: ClassVar[str] = "l2"

    def of(self, weight: Tensor) -> Tensor:
        """The penalty of one weight tensor, a scalar."""
        return weight.square().sum()
