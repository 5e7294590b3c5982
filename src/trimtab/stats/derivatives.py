"""What the statistics of derivatives share: the gates of units, and a loss with gates on branches."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.graph import Branch, ChannelGroup, Network, ParamDim
from trimtab.stats.observe import observe
from trimtab.stats.statistic import Loss, checked, checked_gradient
from trimtab.stats.units import sum_by_unit
from trimtab.tasks.task import Inputs


class Derivatives:
    """The network's loss as a function of its parameters and of a gate of 1 on what every branch adds."""

    def __init__(self, network: Network, loss: Loss) -> None:
        self.network, self.loss = network, loss
        self.parameters = {n: p for n, p in network.named_parameters() if p.is_floating_point()}
        self.gates: dict[Branch, Tensor] = {
            branch: torch.ones((), device=network.device, requires_grad=True) for branch in network.branches
        }
        self.readers = {group.name: readers_of(group) for group in network.groups}

    @property
    def variables(self) -> list[Tensor]:
        """The parameters, then the gates."""
        return [*self.parameters.values(), *self.gates.values()]

    def value(self, inputs: Inputs, target: Any) -> Tensor:
        """The loss of a batch. Raises: NumericsError when it is not finite."""
        return checked(self.loss(observe(self.network, inputs, gates=self.gates), target))

    def gradient(self, value: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        """By all variables; zero where the loss does not depend on one. Raises: NumericsError."""
        found = torch.autograd.grad(value, self.variables, create_graph=create_graph, allow_unused=True)
        names = [*self.parameters, *(branch.name for branch in self.gates)]
        return [
            torch.zeros_like(variable) if gradient is None else checked_gradient(name, gradient)
            for name, variable, gradient in zip(names, self.variables, found, strict=True)
        ]

    def split(self, values: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Numbers of all variables, as those of parameters and those of branches by name."""
        names = [branch.name for branch in self.gates]
        return dict(zip(self.parameters, values, strict=False)), dict(
            zip(names, values[len(self.parameters) :], strict=True)
        )

    def by_unit(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of every group, `values` of its readers' weights summed over what belongs to each unit. [width] float64"""
        return {
            group.name: torch.stack(
                [sum_by_unit(self.network, group, member, values[member.parameter]) for member in members]
            ).sum(0)
            for group in self.network.groups
            if (members := self.readers[group.name])
        }

    def times_weight(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every parameter's numbers times its weights."""
        return {name: parameter.detach() * values[name].detach() for name, parameter in self.parameters.items()}


def readers_of(group: ChannelGroup) -> tuple[ParamDim, ...]:
    """The slices that read the group's units; where none reads (the units are an output), those that make them.

    One side only: a gate before the readers and one after the makers are the same gate, and would count twice.
    """
    readers = tuple(member for member in group.members if member.role == "in")
    return readers or tuple(member for member in group.members if member.role == "out")


def zeros_like(parameters: Mapping[str, nn.Parameter], names: Collection[str] | None = None) -> dict[str, Tensor]:
    """A float64 sum to begin with, for every parameter."""
    return {
        name: torch.zeros_like(parameter, dtype=torch.float64)
        for name, parameter in parameters.items()
        if names is None or name in names
    }


def on_cpu(sums: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Sums over `count` terms as means, on the CPU."""
    return {name: (total / count).cpu() for name, total in sums.items()}
