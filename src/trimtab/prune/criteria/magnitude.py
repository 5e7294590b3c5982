"""Magnitude: a unit whose weights are small matters little."""

from typing import ClassVar

import torch

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.scores import Scores
from trimtab.stats import Stats, sum_by_unit


class Magnitude:
    """L2 norm of everything that makes a unit (all its "out" slices), relative to the mean over the group.

    score_u = ‖w_u‖₂ / mean_v ‖w_v‖₂, so 1 is an average unit of its group whatever the layer's scale, and groups can
    be compared. A group of zeros scores zero.
    Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (L1 there); the normalization as the layer-wise
    mean of Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", sec. 2.2.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: NumericsError when a weight is not finite."""
        parameters = dict(network.named_parameters())
        squares = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            if member.role == "out":
                squares += sum_by_unit(network, group, member, parameters[member.parameter].detach().double().square())
        norms = squares.sqrt()
        mean = norms.mean()
        return Scores(group=group.name, values=norms if mean == 0 else norms / mean)
