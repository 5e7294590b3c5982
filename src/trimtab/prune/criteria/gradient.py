"""Gradient magnitude: weights whose size hardly moves the loss matter little."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.makers import sum_over_makers, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Gradient:
    """Entries: |w·∂L/∂w|, the gradient taken over all the data. Units: the sum over everything that makes the unit.

    In units of the loss. Sizes are summed, so that contributions of one unit's weights do not cancel as in 'taylor'.
    Source: Blalock et al. 2020, "What is the State of Neural Network Pruning?", sec. 7.2 (gradient magnitude).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mean_gradient"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit", "useless_entry"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "mean_gradient" or for another network."""
        values = sum_over_makers(network, group, lambda name: self.entries(network, name, stats))
        return Scores(group=group.name, values=values)

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Raises: ConfigError as the call."""
        return (weight_of(network, parameter) * stats.entries("mean_gradient", parameter)).abs()
