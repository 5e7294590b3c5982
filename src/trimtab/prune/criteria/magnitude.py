"""Magnitude: weights that are small matter little."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.makers import sum_over_makers, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Magnitude:
    """Units: ‖w_u‖₂ of everything that makes a unit (all its "out" slices), made `comparable` between groups.

    Entries: w², which ranks as |w| and adds up to squared norms.
    Source: units, Li et al. 2017, "Pruning Filters for Efficient ConvNets" (L1 there); entries, Han et al. 2015,
    "Learning both Weights and Connections for Efficient Neural Networks".
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "scale_free", "useless_unit", "useless_entry"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: NumericsError when a weight is not finite."""
        squares = sum_over_makers(network, group, lambda name: weight_of(network, name).square())
        return Scores(group=group.name, values=comparable(group, squares.sqrt()))

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Squares of the weights."""
        return weight_of(network, parameter).square()
