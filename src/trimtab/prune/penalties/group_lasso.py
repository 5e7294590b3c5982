"""Group lasso: all that belongs to a unit is drawn to zero together, so that whole units become negligible."""

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.graph import ChannelGroup, Network
from trimtab.prune.penalties.weights import share_below, total
from trimtab.stats import sum_by_unit


class GroupLasso:
    """Σ over groups and units u of √n · ‖w_u‖₂: w_u are the n entries of the unit in all members' parameters.

    Negligible: a unit whose norm is at most a hundredth of the largest of its group.
    Source: Yuan & Lin 2006, "Model Selection and Estimation in Regression with Grouped Variables", eq. 2.2 (√n); over
    a unit's filters and readers: Wen et al. 2016, "Learning Structured Sparsity in Deep Neural Networks".
    """

    def __init__(self, network: Network) -> None:
        self._groups = {group.name: _Slices(network, group) for group in network.groups}
        if not self._groups:
            raise ConfigError(
                "penalty 'group_lasso' acts on the units of channel groups, and the network has none; choose 'l1'"
            )

    def __call__(self) -> Tensor:
        return total({name: (slices.norms() * slices.entries.sqrt()).sum() for name, slices in self._groups.items()})

    def negligible(self) -> float:
        """The share of all units."""
        with torch.no_grad():
            return share_below(slices.norms() for slices in self._groups.values())

    def finish(self) -> None:
        """Nothing was inserted."""


class _Slices:
    """The slices of all parameters that belong to a group's units. `entries`: how many a unit has, [width]."""

    def __init__(self, network: Network, group: ChannelGroup) -> None:
        parameters = dict(network.named_parameters())
        self._members = []
        self.entries = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            if member.parameter in parameters:
                parameter = parameters[member.parameter]
                self.entries += sum_by_unit(network, group, member, torch.ones(parameter.shape))
                units = network.units(group, member).to(parameter.device)
                here = (units >= 0).nonzero().squeeze(1)
                self._members.append((parameter, member.dim, here, units[here]))
        parameter = self._members[0][0]
        self.entries = self.entries.to(parameter.device, parameter.dtype)

    def norms(self) -> Tensor:
        """[width]; the gradient of a unit that is zero is zero."""
        squares = torch.zeros_like(self.entries)
        for parameter, dim, here, units in self._members:
            rows = parameter.movedim(dim, 0)
            per_position = rows.reshape(len(rows), -1).square().sum(1)
            squares = squares.index_add(0, units, per_position[here])
        gone = squares == 0
        return squares.masked_fill(gone, 1).sqrt().masked_fill(gone, 0)
