"""Ablation: what is removed matters as much as the loss really changes without it."""

from typing import ClassVar

from trimtab.graph import Branch, ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Ablation:
    """The loss without a unit, or a branch, less the loss with it; measured, signed, in units of the loss.

    Source: the oracle of Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", sec. 2.2, with its sign kept.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"ablation"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "ablation" or for another network."""
        return Scores(group=group.name, values=stats.units("ablation", group.name))

    def branch(self, network: Network, branch: Branch, stats: Stats) -> float:
        """Raises: ConfigError as the call."""
        return float(stats.branch("ablation", branch.name))
