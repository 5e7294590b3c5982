"""Fisher: what is removed matters as much as the loss would change, to second order, by the Fisher information."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Fisher:
    """½·F for a gate of 1 on what is removed, F the mean over rows of the squared derivative: the second-order change
    of the loss at a minimum, where the Fisher information is the expected Hessian. In units of the loss.

    Units: the gate is on the unit. Branches: on what the branch adds. Entries: ½·w²·F_w.
    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", eq. 8 and 9.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"equivariant", "useless_unit", "useless_entry", "useless_branch"}
    )

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "fisher" or for another network."""
        return Scores(group=group.name, values=stats.units("fisher", group.name) / 2)

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Raises: ConfigError as the call."""
        return weight_of(network, parameter).square() * stats.entries("fisher", parameter) / 2

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        """Raises: ConfigError as the call."""
        return float(stats.branch("fisher", branch.name)) / 2
