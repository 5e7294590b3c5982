"""What the loss gains by a unit or a branch, measured: it is taken away and the loss is computed again."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.stats.found import Found
from trimtab.stats.observe import observe
from trimtab.stats.statistic import Loss, checked
from trimtab.tasks.rows import count, take
from trimtab.tasks.task import Inputs

ROWS = 256
"""At most so many rows are seen: every unit costs a forward pass over them."""


class Ablation:
    """The mean over rows of the loss without it, less the loss with it; at most 256 rows. `units`: all slices of a unit
    are zero (weights, biases, norms), as when it is cut. `branches`: what the branch adds is zero.

    It is signed: below zero the network is better off without.
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._units: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._branches: dict[str, float] = defaultdict(float)
        self._rows = 0

    @torch.no_grad()
    def add(self, inputs: Inputs, target: Any) -> None:
        """A forward pass for every unit and every branch."""
        rows = min(count((inputs, target)), ROWS - self._rows)
        if rows == 0:
            return
        index = torch.arange(rows)
        inputs, target = take(inputs, index), take(target, index)
        whole = self._value(inputs, target)
        for group in self._network.groups:
            losses = [self._without_unit(group, unit, inputs, target) for unit in range(group.width)]
            self._units[group.name] = self._units[group.name] + rows * (torch.tensor(losses).double() - whole)
        for branch in self._network.branches:
            self._branches[branch.name] += rows * (self._value(inputs, target, without=branch) - whole)
        self._rows += rows

    def _without_unit(self, group: ChannelGroup, unit: int, inputs: Inputs, target: Any) -> float:
        with _unit_at_zero(self._network, group, unit):
            return self._value(inputs, target)

    def _value(self, inputs: Inputs, target: Any, without: Branch | None = None) -> float:
        gates = {} if without is None else {without: torch.zeros((), device=self._network.device)}
        return checked(self._loss(observe(self._network, inputs, gates=gates), target)).item()

    def found(self) -> Found:
        """Means over the rows."""
        return Found(
            units={name: total / self._rows for name, total in self._units.items()},
            branches={name: torch.tensor(total / self._rows).double() for name, total in self._branches.items()},
        )


@contextmanager
def _unit_at_zero(network: Network, group: ChannelGroup, unit: int) -> Iterator[None]:
    """All parameters' slices of a unit are zero inside the block."""
    parameters = dict(network.named_parameters())
    saved: list[tuple[Tensor, int, Tensor, Tensor]] = []
    for member in group.members:
        if member.role != "buffer":
            parameter = parameters[member.parameter].data
            positions = torch.nonzero(network.units(group, member) == unit).squeeze(1).to(parameter.device)
            saved.append((parameter, member.dim, positions, parameter.index_select(member.dim, positions)))
            parameter.index_fill_(member.dim, positions, 0.0)
    try:
        yield
    finally:
        for parameter, dim, positions, values in reversed(saved):
            parameter.index_copy_(dim, positions, values)
