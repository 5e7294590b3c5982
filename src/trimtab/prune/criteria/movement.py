"""Movement: weights that training moves toward zero matter little."""

from typing import ClassVar

from trimtab.graph import ChannelGroup, Network
from trimtab.prune.contract import Promise
from trimtab.prune.scores import Scores
from trimtab.stats import Stats


class Movement:
    """Σ w·Δw over a few steps of SGD on a copy, over the weights that read the unit. Signed.

    It has no scores of single weights: before training they cancel one another, and those below zero are needed too.
    Source: Sanh, Wolf & Rush 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", eq. 4.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"movement"})
    promises: ClassVar[frozenset[Promise]] = frozenset({"equivariant"})

    def __call__(self, network: Network, group: ChannelGroup, stats: Stats) -> Scores:
        """Raises: ConfigError when `stats` was collected without "movement" or for another network."""
        return Scores(group=group.name, values=stats.units("movement", group.name))
