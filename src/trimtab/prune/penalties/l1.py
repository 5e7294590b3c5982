"""L1: every weight is drawn to zero with the same force."""

from typing import ClassVar

from torch import Tensor

from trimtab.prune.penalties.weights import WeightPenalty


class L1(WeightPenalty):
    """Σ|w| over the weights of all layers.

    Source: Tibshirani 1996, "Regression Shrinkage and Selection via the Lasso"; Han et al. 2015, "Learning both
    Weights and Connections for Efficient Neural Networks", section 3.1.
    """

    name: ClassVar[str] = "l1"

    def of(self, weight: Tensor) -> Tensor:
        """The penalty of one weight tensor, a scalar."""
        return weight.abs().sum()
