"""The gradient of the loss over all the data."""

from typing import Any, ClassVar

from trimtab.graph import Network
from trimtab.stats.derivatives import Derivatives, on_cpu, zeros_like
from trimtab.stats.found import Found
from trimtab.stats.statistic import Loss
from trimtab.tasks.task import Inputs


class MeanGradient:
    """`entries`: the mean over batches of ∂L/∂w, with its sign: noise of single batches cancels."""

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._of = Derivatives(network, loss)
        self._sums = zeros_like(self._of.parameters)
        self._count = 0

    def add(self, inputs: Inputs, target: Any) -> None:
        """One forward and one backward pass. Raises: NumericsError when the loss or a gradient is not finite."""
        gradients, _ = self._of.split(self._of.gradient(self._of.value(inputs, target)))
        for name, gradient in gradients.items():
            self._sums[name] += gradient
        self._count += 1

    def found(self) -> Found:
        """Means over the batches."""
        return Found(entries=on_cpu(self._sums, self._count))
