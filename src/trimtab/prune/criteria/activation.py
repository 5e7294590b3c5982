"""Activation: units that put out little, and weights that are multiplied with little, matter little."""

from typing import ClassVar

from torch import Tensor

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.makers import norm_of_readers, relative, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Activation:
    """Units: mean |a| of what is read of the unit, times the L2 norm of the weights that read it: the size of what it
    adds to the layers behind. Made `comparable` between groups.

    Entries: w²·mean a² of what the weight is multiplied with, which is the mean square of what the entry adds to its
    output, relative to the mean over the parameter. Branches: Σ(what it adds)² over Σ(what it is added to)².
    Source: units, Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    sec. 2.2; entries, Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models" (its score
    squared).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"activation"})
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"equivariant", "useless_unit", "useless_entry", "useless_branch"}
    )

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no known operator reads the group, or `stats` lacks "activation"."""
        return Scores(group=group.name, values=comparable(group, self.sizes(network, group, stats)))

    def sizes(self, network: Network, group: ChannelGroup, stats: Stats) -> Tensor:
        """mean |a|·‖weights that read it‖₂ of every unit, in the group's own scale. [width] float64"""
        return stats.units("activation", group.name) * norm_of_readers(network, group)

    def entries(self, network: Network, parameter: str, stats: Stats) -> Tensor:
        """Raises: ConfigError when no known operator reads with the parameter, or `stats` lacks "activation"."""
        return relative(weight_of(network, parameter).square() * stats.entries("activation", parameter))

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        """Raises: ConfigError when `stats` lacks "activation"."""
        return float(stats.branch("activation", branch.name))
