"""Scores in a group's own scale, made comparable between groups."""

import torch
from torch import Tensor

from trimtab.graph import ChannelGroup


def comparable(group: ChannelGroup, values: Tensor) -> Tensor:
    """(number of readers) · v_u² / Σ v_w² over the units w that are not below u. [width] -> [width], 0..readers

    The squared error, relative to what is left, that removing u adds to the input of each layer that reads the group,
    once all below u are gone; summed over those layers. So the order within a group stays, its scale does not matter, a
    group that much depends on (a residual stream) is worth more, and none is emptied before the others: its k-th unit
    has at most a k-th of the first one's score.
    Source: Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", eq. 2, for one reader.
    """
    readers = sum(member.role == "in" for member in group.members)
    return max(readers, 1) * share_of_rest(values.square())


def share_of_rest(squares: Tensor) -> Tensor:
    """Each number (>= 0) over the sum of those that are not smaller, itself and its equals among them. 0..1

    Equal is what differs by less than a billionth of the largest: sums in another order must not tell units apart.
    """
    largest = squares.max()
    if largest == 0:
        return squares
    levels, level = torch.unique((squares / largest).round(decimals=9), return_inverse=True)
    sums = torch.zeros_like(levels).index_add(0, level.flatten(), squares.flatten())
    return squares / sums.flip(0).cumsum(0).flip(0)[level]
