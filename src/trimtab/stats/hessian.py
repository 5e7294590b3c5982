"""The diagonal of the Hessian, by Hutchinson's estimator."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trimtab.graph import Network
from trimtab.stats.derivatives import Derivatives, on_cpu, zeros_like
from trimtab.stats.found import Found
from trimtab.stats.statistic import Loss, checked_gradient
from trimtab.tasks.task import Inputs

PROBES = 2
"""Random directions a batch."""


class Hessian:
    """`entries`: ∂²L/∂w² of each weight; `units`: ∂²L/∂g² of a gate g on each unit, wᵤᵀHwᵤ over the weights that read
    it; `branches`: the same of a gate on what a branch adds. Means over batches of the estimate z ⊙ (H z), whose
    expectation is the diagonal for any z of independent random signs; unbiased and noisy, so it may be negative.

    Source: Bekas, Kokiopoulou & Saad 2007, "An Estimator for the Diagonal of a Matrix"; products with H by Pearlmutter
    1994, "Fast Exact Multiplication by the Hessian".
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._of = Derivatives(network, loss)
        self._random = torch.Generator().manual_seed(0)
        self._entries = zeros_like(self._of.parameters)
        self._units: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._branches: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._count = 0

    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward pass, and for every probe two products with the Hessian."""
        with _twice_differentiable():
            gradient = self._of.gradient(self._of.value(inputs, target), create_graph=True)
            for _ in range(PROBES):
                self._probe_entries(gradient)
                self._probe_units(gradient)
                self._count += 1

    def _probe_entries(self, gradient: list[Tensor]) -> None:
        signs = [self._signs(variable) for variable in self._of.variables]
        products = self._product(gradient, signs)
        entries, branches = self._of.split([z * product for z, product in zip(signs, products, strict=True)])
        for name, value in entries.items():
            self._entries[name] += value
        for name, value in branches.items():
            self._branches[name] = self._branches[name] + value.double().cpu()

    def _probe_units(self, gradient: list[Tensor]) -> None:
        """One sign for every unit of every group: the direction w·z, summed over the groups that read a weight."""
        network = self._of.network
        signs = {group.name: self._signs(torch.empty(group.width)) for group in network.groups}
        direction = {name: torch.zeros_like(parameter) for name, parameter in self._of.parameters.items()}
        for group in network.groups:
            for member in self._of.readers[group.name]:
                units = network.units(group, member)
                along = torch.where(units >= 0, signs[group.name][units.clamp(min=0)], 0.0)
                weight = self._of.parameters[member.parameter].detach()
                shape = [-1 if i == member.dim else 1 for i in range(weight.dim())]
                direction[member.parameter] += weight * along.to(weight).view(shape)
        gates = [torch.zeros_like(gate) for gate in self._of.gates.values()]
        products, _ = self._of.split(self._product(gradient, [*direction.values(), *gates]))
        for name, sums in self._of.by_unit(self._of.times_weight(products)).items():
            self._units[name] = self._units[name] + signs[name].double() * sums

    def _product(self, gradient: list[Tensor], direction: list[Tensor]) -> list[Tensor]:
        """H times a direction; zero where nothing depends on a variable."""
        pairs = [(g, v) for g, v in zip(gradient, direction, strict=True) if g.requires_grad]
        variables = self._of.variables
        if not pairs:
            return [torch.zeros_like(variable) for variable in variables]
        found = torch.autograd.grad(
            [g for g, _ in pairs], variables, [v for _, v in pairs], retain_graph=True, allow_unused=True
        )
        return [
            torch.zeros_like(variable) if product is None else checked_gradient("a gradient", product)
            for variable, product in zip(variables, found, strict=True)
        ]

    def _signs(self, like: Tensor) -> Tensor:
        return (torch.randint(2, like.shape, generator=self._random) * 2 - 1).to(like)

    def found(self) -> Found:
        """Means over all probes."""
        return Found(
            units=on_cpu(self._units, self._count),
            entries=on_cpu(self._entries, self._count),
            branches=on_cpu(self._branches, self._count),
        )


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Without fused kernels, whose gradient has none."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
        yield
