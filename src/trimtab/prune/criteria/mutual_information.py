"""Mutual information: a unit that says little about the label matters little."""

from typing import ClassVar

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class MutualInformation:
    """Mutual information of a unit's mean output a row with the row's label, made `comparable` between
    groups.

    Source: Battiti 1994, "Using Mutual Information for Selecting Features in Supervised Neural Net Learning", with
    units as the features and no term of redundancy.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mutual_information"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no known operator reads the group, or `stats` lacks "mutual_information"."""
        return Scores(group=group.name, values=comparable(group, stats.units("mutual_information", group.name)))
