"""From the positions of a parameter's dimension to the units of a channel group."""

import torch
from torch import Tensor

from trimtab.graph import ChannelGroup, Network, ParamDim


def sum_by_unit(network: Network, group: ChannelGroup, member: ParamDim, values: Tensor) -> Tensor:
    """Sum `values`, shaped as the member's parameter, over everything that belongs to each unit. [width] float64"""
    rows = values.detach().to("cpu", torch.float64).movedim(member.dim, 0)
    per_position = rows.reshape(len(rows), -1).sum(1)
    units = network.units(group, member)
    here = units >= 0
    return torch.zeros(group.width, dtype=torch.float64).index_add(0, units[here], per_position[here])
