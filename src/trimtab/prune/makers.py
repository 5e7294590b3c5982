"""What makes the units of a group (its "out" slices) and what reads them (its "in" slices)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trimtab.graph import ChannelGroup, Network
from trimtab.stats import sum_by_unit


def weight_of(network: Network, parameter: str) -> Tensor:
    """A parameter's values, float64 on the CPU. Raises: AttributeError for an unknown name."""
    return network.module.get_parameter(parameter).detach().double().cpu()


def sum_over_makers(network: Network, group: ChannelGroup, entries: Callable[[str], Tensor]) -> Tensor:
    """Σ of `entries(parameter)` over everything that makes each unit (rows of weights, biases). [width] float64"""
    total = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        if member.role == "out":
            total += sum_by_unit(network, group, member, entries(member.parameter))
    return total


def norm_of_readers(network: Network, group: ChannelGroup) -> Tensor:
    """The L2 norm of everything that reads each unit; of 1 where nothing does. [width] float64"""
    members = [member for member in group.members if member.role == "in"]
    if not members:
        return torch.ones(group.width, dtype=torch.float64)
    parts = [sum_by_unit(network, group, m, weight_of(network, m.parameter).square()) for m in members]
    return torch.stack(parts).sum(0).sqrt()


def rows_of_makers(network: Network, group: ChannelGroup) -> Iterator[Tensor]:
    """For every parameter that makes the units, its weights as one row a unit. [width, …] float64"""
    for member in group.members:
        if member.role == "out":
            units = network.units(group, member)
            order = torch.argsort(units, stable=True)[int((units < 0).sum()) :]
            rows = weight_of(network, member.parameter).movedim(member.dim, 0)[order]
            yield rows.reshape(group.width, -1)


def relative(values: Tensor) -> Tensor:
    """Divided by the mean, so that 1 is an average unit, whatever the scale; all zero stays zero."""
    mean = values.mean()
    return values if mean == 0 else values / mean
