"""Geometric median: a unit that the others could stand in for matters little."""

from typing import ClassVar

import torch

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.makers import rows_of_makers
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class GeometricMedian:
    """score_u = Σ_v ‖w_u − w_v‖₂ over everything that makes the units of a group, made `comparable` between groups.

    The unit with the least sum is nearest to the geometric median of all, which the others can stand in for. It is not
    the unit of zeros that scores least, but the one in the middle.
    Source: He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    eq. 7.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "scale_free"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: NumericsError when a weight is not finite."""
        rows = torch.cat(list(rows_of_makers(network, group)), 1)
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        return Scores(group=group.name, values=comparable(group, distances.sum(1)))
