"""Hessian: what is removed matters as much as the loss would change, to second order, by the Hessian's diagonal."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Hessian:
    """½·|H| for a gate of 1 on what is removed, H the second derivative of the loss by the gate. In units of the loss.

    Units: the gate is on the unit, wᵤᵀHwᵤ over the weights that read it. Branches: on what the branch adds. Entries:
    ½·w²·|H_ww|. The size is taken because estimates of H are noisy around zero.
    Source: LeCun, Denker & Solla 1989, "Optimal Brain Damage", eq. 5.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"useless_unit", "useless_entry", "useless_branch"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "hessian" or for another network."""
        return Scores(group=group.name, values=stats.units("hessian", group.name).abs() / 2)

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Raises: ConfigError as the call."""
        return weight_of(network, parameter).square() * stats.entries("hessian", parameter).abs() / 2

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        """Raises: ConfigError as the call."""
        return abs(float(stats.branch("hessian", branch.name))) / 2
