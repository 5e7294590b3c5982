"""The diagonal of the empirical Fisher information: squared gradients, a row at a time."""

from collections import defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimtab.graph import Network
from trimtab.stats.derivatives import Derivatives, on_cpu, zeros_like
from trimtab.stats.found import Found
from trimtab.stats.statistic import Loss
from trimtab.tasks.rows import count, take
from trimtab.tasks.task import Inputs

ROWS = 256
"""At most so many rows are seen, one at a time: the mean of squares needs single rows, and they are slow."""


class Fisher:
    """The mean over rows of the squared derivative of a row's loss, at most 256 rows: `entries` by each weight,
    `units` by a gate on each unit, `branches` by a gate on what a branch adds.

    Squares of a batch's mean gradient would be smaller by the batch size, and as noisy as batches are few.
    """

    supervised: ClassVar[bool] = True

    def __init__(self, network: Network, loss: Loss) -> None:
        self._of = Derivatives(network, loss)
        self._squares = zeros_like(self._of.parameters)
        self._units: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._branches: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._count = 0

    def add(self, inputs: Inputs, target: Any) -> None:
        """Raises: TaskError when the target's rows are not those of the inputs."""
        rows = count((inputs, target))
        for i in range(min(rows, ROWS - self._count)):
            row = torch.tensor([i])
            self._add_row(take(inputs, row), take(target, row))

    def _add_row(self, inputs: Inputs, target: Any) -> None:
        gradients, branches = self._of.split(self._of.gradient(self._of.value(inputs, target)))
        for name, gradient in gradients.items():
            self._squares[name] += gradient.double().square()
        for name, gate in branches.items():
            self._branches[name] = self._branches[name] + gate.double().cpu().square()
        for name, units in self._of.by_unit(self._of.times_weight(gradients)).items():
            self._units[name] = self._units[name] + units.square()
        self._count += 1

    def found(self) -> Found:
        """Means over the rows."""
        return Found(
            units=on_cpu(self._units, self._count),
            entries=on_cpu(self._squares, self._count),
            branches=on_cpu(self._branches, self._count),
        )
