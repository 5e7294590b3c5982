"""Gradients of the loss, a batch at a time."""

from collections import defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.stats.derivatives import Derivatives, on_cpu, zeros_like
from trimtab.stats.found import Found
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs


class Gradient:
    """`units` [batches, width]: the derivative of each batch's loss by a gate on each unit, Σ w·∂L/∂w over the weights
    that read it (its "in" slices). To first order it is what the loss gains when the unit is there. `branches`
    [batches]: the same for what a branch adds. `entries`: the mean over batches of |∂L/∂w|.

    The signs are kept, so that a criterion may take |·|, squares or means.
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._of = Derivatives(network, loss)
        self._sizes = zeros_like(self._of.parameters)
        self._units: dict[str, list[Tensor]] = defaultdict(list)
        self._branches: dict[str, list[Tensor]] = defaultdict(list)
        self._count = 0

    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward and one backward pass."""
        gradients, branches = self._of.split(self._of.gradient(self._of.value(inputs, target)))
        for name, gradient in gradients.items():
            self._sizes[name] += gradient.abs()
        for name, gate in branches.items():
            self._branches[name].append(gate.double().cpu())
        for name, units in self._of.by_unit(self._of.times_weight(gradients)).items():
            self._units[name].append(units)
        self._count += 1

    def found(self) -> Found:
        """Raises nothing: a batch that is not finite was refused."""
        return Found(
            units={name: torch.stack(rows) for name, rows in self._units.items()},
            entries=on_cpu(self._sizes, self._count),
            branches={name: torch.stack(rows) for name, rows in self._branches.items()},
        )
