"""L2: every weight is drawn to zero with a force that falls as it gets there."""

from torch import Tensor

from trimtab.graph import Network
from trimtab.prune.penalties.weights import share_below, total, weights_of


class L2:
    """Σw² over the weights of all layers. Negligible: at most a hundredth of the largest weight of the layer.

    Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.1.
    """

    def __init__(self, network: Network) -> None:
        self._weights = weights_of(network, "l2")

    def __call__(self) -> Tensor:
        return total({name: weight.square().sum() for name, weight in self._weights.items()})

    def negligible(self) -> float:
        """The share of all weights."""
        return share_below(self._weights.values())

    def finish(self) -> None:
        """Nothing was inserted."""
