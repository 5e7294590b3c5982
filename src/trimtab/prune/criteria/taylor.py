"""Taylor: what is removed matters as much as the loss would change, to first order, without it."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.makers import weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Taylor:
    """First-order change of the loss, in units of the loss, comparable between groups, layers and branches.

    Units: the mean over batches of |Σ w·∂L/∂w| over the weights that read the unit, which equals |∂L/∂g| for a gate g
    on the unit. Branches: the same for a gate on what the branch adds. Entries: the mean over batches of |w·∂L/∂w|.
    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8, with |·| for (·)² so that
    the unit is the loss's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"equivariant", "useless_unit", "useless_entry", "useless_branch"}
    )

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "gradient" or for another network."""
        return Scores(group=group.name, values=stats.units("gradient", group.name).abs().mean(0))

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Raises: ConfigError as the call."""
        return weight_of(network, parameter).abs() * stats.entries("gradient", parameter)

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        """Raises: ConfigError as the call."""
        return float(stats.branch("gradient", branch.name).abs().mean())
