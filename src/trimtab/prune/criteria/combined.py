"""Combined importance: what a unit is made of, and what it puts out."""

from typing import ClassVar

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.comparable import comparable
from trimtab.prune.contract import Promise
from trimtab.prune.criteria.activation import Activation
from trimtab.prune.makers import relative, sum_over_makers, weight_of
from trimtab.prune.scores import Scores
from trimtab.stats import Stats

ALPHA = 1.0
"""Weight of the activations; both terms are relative to their means over the group, so that 1 is an even share."""


class Combined:
    """Σ|w| + α Σ|a| with α = 1, both relative to the mean over the group: of the weights that make a unit, and of what
    it adds to the layers behind (as 'activation' has it). The sum is made `comparable` between groups.
    """

    needs: ClassVar[frozenset[str]] = Activation.needs
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant", "useless_unit"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when no known operator reads the group, or `stats` lacks "activation"."""
        weights = relative(sum_over_makers(network, group, lambda name: weight_of(network, name).abs()))
        activations = relative(Activation().sizes(network, group, stats))
        return Scores(group=group.name, values=comparable(group, weights + ALPHA * activations))
