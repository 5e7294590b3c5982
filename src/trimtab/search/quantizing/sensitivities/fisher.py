"""Fisher: squared gradients of the loss, weight by weight, times the squared error of each weight."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from trimtab.graph import Network
from trimtab.stats import Stats
from trimtab.tasks.task import Inputs


class Fisher:
    """½ · Σ F · (rounded − weight)², F the diagonal of the empirical Fisher information.

    At a minimum of a likelihood, where F is the Hessian's, that is the rise of the loss to second order.
    Source: LeCun, Denker & Solla 1990, "Optimal Brain Damage", eq. 3 (with the Hessian's diagonal for F).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    measures: ClassVar[bool] = False

    def __init__(self, network: Network, stats: Stats, inputs: Sequence[Inputs]) -> None:
        self._network, self._stats = network, stats

    def loss(self, parameter: str, rounded: Tensor) -> float:
        """In units of the task's loss. Raises: ConfigError for statistics of another network."""
        weight = self._network.module.get_parameter(parameter).detach()
        error = (rounded - weight).double().square().cpu()
        return float((self._stats.entries("fisher", parameter) * error).sum()) / 2
