"""Entropy: a unit that says the same of every row matters little."""

from typing import ClassVar

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Entropy:
    """Entropy of a unit's mean output a row, made `comparable` between groups.

    Source: Luo & Wu 2017, "An Entropy-based Pruning Method for CNN Compression", eq. 2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no known operator reads the group, or `stats` lacks "entropy"."""
        return Scores(group=group.name, values=comparable(group, stats.units("entropy", group.name)))
