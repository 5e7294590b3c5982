"""Where training moves the weights: away from zero, or toward it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.stats.derivatives import Derivatives, zeros_like
from trimtab.stats.found import Found
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs

STEP = 1e-3
"""The length of every step of SGD, relative to the length of all weights."""

SHRINK = 0.5
"""What the matrices of the copy are multiplied with before the first step."""


class Movement:
    """A copy of the network whose matrices are halved takes a step of SGD on every batch. `entries`: Σ w·Δw over the
    steps, positive where a weight moves away from zero. `units`: the sum over the weights that read a unit.

    At the trained weights the loss has nothing to gain and moves nothing but noise; half-way to zero, the weights that
    it needs grow back. (In movement pruning the mask takes the loss away from its minimum.) Every step is 0.1 % of the
    weights' length; batch norm and dropout stay in evaluation mode.
    Source: Sanh, Wolf & Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", eq. 4.
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        copy = network.clone()
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
                if parameter.dim() > 1 and parameter.is_floating_point():
                    parameter.mul_(SHRINK)
        self._of = Derivatives(copy, loss)
        self._entries = zeros_like(self._of.parameters)

    def add(self, inputs: Inputs, target: Any) -> None:
        """One step. Raises: NumericsError when the loss or a gradient is not finite."""
        gradients, _ = self._of.split(self._of.gradient(self._of.value(inputs, target)))
        rate = STEP * _length(self._of.parameters) / max(_length(gradients), 1e-30)
        for name, product in self._of.times_weight(gradients).items():
            self._entries[name] -= rate * product
        with torch.no_grad():
            for name, parameter in self._of.parameters.items():
                parameter.sub_(gradients[name], alpha=rate)

    def found(self) -> Found:
        """Sums over the steps."""
        entries = {name: total.cpu() for name, total in self._entries.items()}
        return Found(units=self._of.by_unit(entries), entries=entries)


def _length(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(tensor.detach().double().square().sum()) for tensor in tensors.values()) ** 0.5
