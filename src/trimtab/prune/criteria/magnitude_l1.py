"""Magnitude, L1: weights that are small matter little."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.makers import sum_over_makers, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class MagnitudeL1:
    """Units: Σ|w| over everything that makes a unit (all its "out" slices), made `comparable` between groups.

    Entries: |w|, so that of tiles and kernels the L1 norm decides.
    Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", sec. 3.1.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "scale_free", "useless_unit", "useless_entry"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: NumericsError when a weight is not finite."""
        sums = sum_over_makers(network, group, lambda name: weight_of(network, name).abs())
        return Scores(group=group.name, values=comparable(group, sums))

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Sizes of the weights."""
        return weight_of(network, parameter).abs()
