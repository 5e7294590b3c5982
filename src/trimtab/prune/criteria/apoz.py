"""Average percentage of zeros: a unit that is seldom active matters little."""

from typing import ClassVar

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Apoz:
    """1 − APoZ, the share of a unit's values that are not at rest (a ReLU's zero), made `comparable` between groups.

    Source: Hu et al. 2016, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures", eq. 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"activity"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no known operator reads the group, or `stats` lacks "activity"."""
        return Scores(group=group.name, values=comparable(group, stats.units("activity", group.name)))
